"""One step of time after the other, in place: for a single step, and where every state is emitted.

The backward of a sequence whose states get no gradient goes by chunks instead.
"""

from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.launch import operator
from worldmodels.kernels.sequence import keep_bits, no_autocast, row_blocks
from worldmodels.kernels.ssd.chunks import chunks_backward

_CACHED = 2**20
"""Bytes of the states that a CPU works on at a time."""


def _prepared(decay: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The decays [B, T, H, 1, 1] and the bits that resets keep [B, T, 1, 1, 1]."""
    keep = None if reset is None else keep_bits(reset, decay.dtype)[..., None, None, None]
    return decay.exp()[..., None, None], keep


def _forward_shapes(x: Tensor, decay, B, C, initial: Tensor, *_: Any):
    """Empty: y [B, T, H, P], the last state [B, H, P, N], all states [B, T, H, P, N]."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    batch, length = x.shape[:2]
    last = initial.new_empty(batch if length > 1 else 0, *initial.shape[1:])
    return y, last, initial.new_empty(batch, length, *initial.shape[1:])


def loop_forward(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunks_forward`, with all states [B, T, H, P, N] in place of those between chunks.

    Where T is 1 these are the last state, and that is empty. `chunk` is for the backward.
    """
    y, last, states = _forward_shapes(x, decay, B, C, initial)
    factor, keep = _prepared(decay, reset)
    groups, length = B.shape[2], x.shape[1]
    for rows in row_blocks(initial, _CACHED):
        h = initial[rows]
        for t in range(length):
            h = torch.mul(h, factor[rows, t], out=states[rows, t])
            if keep is not None:
                h.view(keep.dtype).bitwise_and_(keep[rows, t])
            for g, (part, heads) in enumerate(_groups(h, groups)):
                inputs = x[rows, t, heads].flatten(1)
                part.addcmul_(inputs[..., None], B[rows, t, g, None])
                out = y[rows, t, heads].flatten(1)[:, None]
                torch.bmm(C[rows, t, g, None], part.mT, out=out)
    if length > 1:
        last.copy_(states[:, -1])
    return y, last, states


loop = operator("ssd_loop", _forward_shapes)(loop_forward)


def _groups(h: Tensor, groups: int) -> list[tuple[Tensor, slice]]:
    """Views [B, H / G * P, N] of a state [B, H, P, N], and the heads in each."""
    step = h.shape[1] // groups
    slices = [slice(start, start + step) for start in range(0, h.shape[1], step)]
    return [(h[:, heads].flatten(1, 2), heads) for heads in slices]


def _backward_shapes(grad_y: Tensor, grad_last, grad_states, x, decay, B, C, initial, *_: Any):
    """Empty gradients of x, decay, B, C and the initial state."""
    like = [torch.empty_like(x) for x in (grad_y, decay, B, C)]
    return *like, initial.new_empty(initial.shape)


@operator("ssd_loop_backward", _backward_shapes)
def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    grad_states: Tensor | None,
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    reset: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = _backward_shapes(grad_y, grad_last, grad_states, x, decay, B, C, initial)
    grad_x, grad_decay, grad_B, grad_C, grad = found
    factor, keep = _prepared(decay, reset)
    grad.zero_() if grad_last is None else grad.copy_(grad_last)
    for rows in row_blocks(grad, _CACHED):
        here = grad[rows]
        for t in reversed(range(x.shape[1])):
            h = states[rows, t]
            if grad_states is not None:
                here.add_(grad_states[rows, t])
            for g, (part, heads) in enumerate(_groups(here, B.shape[2])):
                gy, b = grad_y[rows, t, heads].flatten(1)[:, None], B[rows, t, g, None]
                part.addcmul_(gy.mT, C[rows, t, g, None])
                torch.bmm(gy, h[:, heads].flatten(1, 2), out=grad_C[rows, t, g, None])
                torch.bmm(x[rows, t, heads].flatten(1)[:, None], part, out=grad_B[rows, t, g, None])
                grad_x[rows, t, heads] = torch.bmm(b, part.mT).view_as(x[rows, t, heads])
            here.mul_(factor[rows, t])
            before = states[rows, t - 1] if t else initial[rows]
            grad_decay[rows, t] = (here * before).sum((2, 3))
            if keep is not None:
                here.view(keep.dtype).bitwise_and_(keep[rows, t])
    if reset is not None:
        grad_decay.masked_fill_(reset[..., None], 0.0)
    return grad_x, grad_decay, grad_B, grad_C, grad


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_last, grad_states) -> tuple[Tensor | None, ...]:
    *inputs, y, last, states = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(y)
    with no_autocast(y):
        if states.shape[1] > 1 and grad_states is None:
            between = states[:, ctx.chunk - 1 : -1 : ctx.chunk].transpose(0, 1)
            found = chunks_backward(grad_y, grad_last, None, *inputs, y, last, between, ctx.chunk)
        else:
            found = _backward(grad_y, grad_last, grad_states, *inputs, states)
    return *found, None, None


loop.register_autograd(_differentiate, setup_context=_save)
