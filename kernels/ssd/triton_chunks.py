"""The sequence in chunks, as an operator: y, the last state and the states between chunks."""

from typing import Any

import torch
import triton
from torch import Tensor

from worldmodels.kernels.launch import launch, operator
from worldmodels.kernels.ssd.triton_backward import (
    inputs_backward_kernel,
    pairs_backward_kernel,
    states_backward_kernel,
)
from worldmodels.kernels.ssd.triton_common import over_heads, power_of_2, sizes
from worldmodels.kernels.ssd.triton_forward import outputs_kernel, states_kernel


def chunk_length(x: Tensor, chunk: int) -> int:
    """The steps of one chunk, a power of two, where `chunk` was asked for.

    Products in full float32 are made of three, which need the registers of twice as many steps.
    """
    return power_of_2(min(chunk, x.shape[1]), 16, 32 if x.dtype == torch.float32 else 64)


def _constants(x: Tensor, B: Tensor, chunk: int) -> dict[str, Any]:
    """The constants of the kernels; products round half inputs to 10 bits, others as torch does."""
    exact = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return sizes(x, B) | {"CHUNK": chunk, "PRECISION": "tf32x3" if exact else "tf32"}


def _state_blocks(x: Tensor, B: Tensor, chunk: int) -> tuple[dict[str, int], tuple[int, int]]:
    """The block of a state that one program carries, and the number of these along p and n."""
    (width, size), tall = (x.shape[3], B.shape[3]), min(2048 // chunk, 64)
    blocks = {"BLOCK_P": power_of_2(width, 16, tall), "BLOCK_N": power_of_2(size, 16, 32)}
    return blocks, (triton.cdiv(width, blocks["BLOCK_P"]), triton.cdiv(size, blocks["BLOCK_N"]))


@operator("ssd_chunks")
def chunks(
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    reset: Tensor | None,
    initial: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and the states [B, chunks, H, P, N] that the chunks start from."""
    (batch, length, heads, width), size = x.shape, B.shape[3]
    constants = _constants(x, B, chunk)
    y, last = torch.empty_like(x), d.new_empty(batch, heads, width, size)
    before = d.new_empty(batch, triton.cdiv(length, chunk), heads, width, size)
    blocks, numbers = _state_blocks(x, B, chunk)
    launch(
        states_kernel,
        (batch * heads, *numbers),
        warps=4,
        x=x,
        d=d,
        decay=decay,
        B=B,
        reset=reset,
        initial=initial,
        before=before,
        last=last,
        length=length,
        **constants,
        **blocks,
    )
    _outputs(x, d, decay, B, C, D, z, reset, before, None, y, chunk)
    return y, last, before


def _outputs(x: Tensor, d, decay, B: Tensor, C, D, z, reset, before: Tensor, grad_y, y, chunk: int):
    """Fill `y`, or, with `grad_y`, fill it with the gradient of z."""
    block = power_of_2(x.shape[3], 16, 64)
    launch(
        outputs_kernel,
        (x.shape[0] * x.shape[2], triton.cdiv(x.shape[3], block), before.shape[1]),
        warps=4,
        x=x,
        d=d,
        decay=decay,
        B=B,
        C=C,
        D=D,
        z=z,
        reset=reset,
        before=before,
        grad_y=grad_y,
        y=y,
        length=x.shape[1],
        **_constants(x, B, chunk),
        BLOCK_P=block,
        SLICE_N=power_of_2(B.shape[3], 16, 32),
    )


@operator("ssd_chunks_backward")
def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    grad_before: Tensor | None,
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    reset: Tensor | None,
    before: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, d, decay, B, C, D, z and the initial state; empty where not given."""
    (batch, length, heads, width), size = x.shape, B.shape[3]
    constants = _constants(x, B, chunk)
    after, grad_initial = torch.empty_like(before), d.new_empty(batch, heads, width, size)
    blocks, numbers = _state_blocks(x, B, chunk)
    launch(
        states_backward_kernel,
        (batch * heads, *numbers),
        warps=4,
        decay=decay,
        C=C,
        z=z,
        reset=reset,
        grad_y=grad_y,
        grad_last=grad_last,
        grad_before=grad_before,
        after=after,
        grad_initial=grad_initial,
        length=length,
        **constants,
        **blocks,
    )
    grad_x, grad_d = torch.empty_like(x), torch.empty_like(d)
    grad_D = None if D is None else d.new_empty(before.shape[:4])
    # All of p at once spares loads, where registers hold it.
    whole = x.dtype == torch.float32 and width <= 64
    launch(
        inputs_backward_kernel,
        (batch * heads, before.shape[1]),
        warps=4,
        x=x,
        d=d,
        decay=decay,
        B=B,
        C=C,
        D=D,
        z=z,
        reset=reset,
        after=after,
        grad_y=grad_y,
        grad_x=grad_x,
        grad_d=grad_d,
        grad_D=grad_D,
        length=length,
        **constants,
        SLICE_P=power_of_2(width, 16, 64) if whole else 16,
        SLICE_N=16,
    )
    grad_z = d.new_empty(0) if z is None else torch.empty_like(z)
    if z is not None:
        _outputs(x, d, decay, B, C, D, z, reset, before, grad_y, grad_z, chunk)
    # Of p and n together what registers hold; a block of n is a part of the gradient of the decay.
    slice_p, block_n = (32, 16) if x.dtype == torch.float32 else (16, 32)
    block_n = power_of_2(size, 16, block_n)
    grad_decay = d.new_empty(triton.cdiv(size, block_n), batch, length, heads)
    grad_B, grad_C = d.new_empty(2, 1, batch, length, heads, size)
    launch(
        pairs_backward_kernel,
        (batch * heads, triton.cdiv(size, block_n), before.shape[1]),
        warps=4,
        x=x,
        d=d,
        decay=decay,
        B=B,
        C=C,
        z=z,
        reset=reset,
        before=before,
        after=after,
        grad_y=grad_y,
        grad_decay=grad_decay,
        grad_B=grad_B,
        grad_C=grad_C,
        length=length,
        **constants,
        SLICE_P=power_of_2(width, 16, slice_p),
        BLOCK_N=block_n,
    )
    return (
        grad_x,
        grad_d,
        grad_decay.sum(0),
        over_heads(grad_B, B),
        over_heads(grad_C, C),
        d.new_empty(0) if grad_D is None else grad_D.sum((0, 1)),
        grad_z,
        grad_initial,
    )


def _save(ctx, inputs, output) -> None:
    *tensors, initial, ctx.chunk = inputs
    ctx.has_initial = initial is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx, *grads) -> tuple:
    *inputs, before = ctx.saved_tensors
    grad_y, grad_last, grad_before = (None if g is None else g.contiguous() for g in grads)
    grad_y = torch.zeros_like(inputs[0]) if grad_y is None else grad_y
    *found, initial = _backward(grad_y, grad_last, grad_before, *inputs, before, ctx.chunk)
    found = [*found, None]  # none for the resets
    found = [None if x is None else g for x, g in zip(inputs, found, strict=True)]
    return *found, initial if ctx.has_initial else None, None


chunks.register_autograd(_differentiate, setup_context=_save)
