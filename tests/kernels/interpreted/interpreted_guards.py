"""The guard zones themselves: an access out of bounds fails."""

import pytest
import torch
import triton
import triton.language as tl

from worldmodels.kernels.launch import launch


@triton.jit
def copy_kernel(source, target, first, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(target + i, tl.load(source + first + i))


def copy(source: torch.Tensor, target: torch.Tensor, first: int, size: int) -> None:
    launch(copy_kernel, (1,), warps=1, source=source, target=target, first=first, SIZE=size)


def test_in_bounds():
    source, target = torch.arange(8.0), torch.zeros(8)
    copy(source, target, 0, 8)
    assert torch.equal(source, target)


@pytest.mark.parametrize("first", [-1, 1])
def test_a_read_out_of_bounds_brings_nan(first):
    target = torch.zeros(8)
    copy(torch.arange(8.0), target, first, 8)
    assert target.isnan().any()


def test_a_write_out_of_bounds_fails():
    with pytest.raises(AssertionError, match="target of copy_kernel was written to out of bounds"):
        copy(torch.arange(16.0), torch.zeros(8), 0, 16)


def test_strided_tensors_are_refused(guarded_launches):
    with pytest.raises(ValueError, match="copy_kernel: source has strides"):
        copy(torch.zeros(8, 2)[:, 0], torch.zeros(8), 0, 8)
    guarded_launches[0] += 1
