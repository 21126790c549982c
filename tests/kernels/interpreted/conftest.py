"""Kernels in Triton's interpreter, on buffers with guard zones of NaN.

The interpreter does not notice an access out of bounds; here a write changes a guard zone and a
read brings a NaN into the results. `tests/kernels/test_interpreted.py` runs these files, each in a
process of its own, because a bad access can still harm the process.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels import launch as launching
from worldmodels.kernels.launch import Launch

GUARD = 4096
"""Bytes before and after each buffer."""


class Guarded:
    """A copy of a tensor in the middle of a larger buffer."""

    def __init__(self, x: Tensor):
        assert x.is_contiguous()
        self.original = x
        size = x.numel() * x.element_size()
        self.buffer = torch.full((GUARD + size + GUARD,), 0xFF, dtype=torch.uint8)  # NaN, or -1
        inside = self.buffer[GUARD : GUARD + size].view(x.dtype)
        self.copy = inside.view(x.shape)
        self.copy.copy_(x)

    def release(self, name: str) -> None:
        """Give the contents back; fail where the surroundings were written to."""
        size = self.buffer.numel() - GUARD
        for zone in (self.buffer[:GUARD], self.buffer[size:]):
            assert bool((zone == 0xFF).all()), f"{name} was written to out of bounds"
        if not torch.equal(_bytes(self.original), _bytes(self.copy)):  # autograd counts writes
            self.original.copy_(self.copy)


def _bytes(x: Tensor) -> Tensor:
    return x.detach().reshape(-1).view(torch.uint8)


@pytest.fixture(autouse=True)
def guarded_launches(monkeypatch):
    """Every launch of the test works on guarded copies; counts the launches."""
    assert launching.interpreting(), "run these files with TRITON_INTERPRET=1"
    plain, count = launching.run, [0]

    def run(launch: Launch) -> None:
        count[0] += 1
        tensors = {k: x for k, x in launch.arguments.items() if isinstance(x, Tensor)}
        guards = {name: Guarded(x.detach()) for name, x in tensors.items()}
        copies: dict[str, Any] = {name: guard.copy for name, guard in guards.items()}
        plain(replace(launch, arguments=launch.arguments | copies))
        for name, guard in guards.items():
            guard.release(f"{name} of {launch.kernel.__name__}")

    monkeypatch.setattr(launching, "run", run)
    yield count
    assert count[0] > 0, "no kernel was launched"
