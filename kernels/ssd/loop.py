"""One step of time after the other, in place: for a single step, and where every state is emitted.

The backward of a sequence whose states get no gradient goes by chunks instead.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodels.kernels.sequence import keep_bits, no_autocast, row_blocks
from worldmodels.kernels.ssd.chunks import chunks_backward

_CACHED = 2**20
"""Bytes of the states that a CPU works on at a time."""


class Loop(torch.autograd.Function):
    """As `Chunks`, with all states [B, T, H, P, N] in place of those between chunks."""

    @staticmethod
    def forward(ctx, x, decay, B, C, initial, reset, chunk: int):
        """Keep the results, which the backward needs."""
        y, last, states = loop_forward(x, decay, B, C, initial, reset, chunk)
        ctx.save_for_backward(x, decay, B, C, initial, reset, y, last, states)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return y, last, states

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the five tensors that may have one."""
        *inputs, y, last, states = ctx.saved_tensors
        grad_y, grad_last, grad_states = grads
        with no_autocast(y):
            if states.shape[1] > 1 and grad_states is None:
                between = states[:, ctx.chunk - 1 : -1 : ctx.chunk]
                saved = (*inputs, y, last, between)
                found = chunks_backward(saved, ctx.chunk, grad_y, grad_last, None)
            else:
                found = _backward(inputs, states, grad_y, grad_last, grad_states)
        return *found, None, None


def _prepared(decay: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The decays [B, T, H, 1, 1] and the bits that resets keep [B, T, 1, 1, 1]."""
    keep = None if reset is None else keep_bits(reset, decay.dtype)[..., None, None, None]
    return decay.exp()[..., None, None], keep


def loop_forward(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, P], the last state [B, H, P, N] and all states [B, T, H, P, N].

    x [B, T, H, P]; decay [B, T, H], its logarithm; B, C [B, T, G, N]; `chunk` means nothing.
    """
    factor, keep = _prepared(decay, reset)
    groups, length = B.shape[2], x.shape[1]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = initial.new_empty(x.shape[0], length, *initial.shape[1:])
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
    last = states[:, 0] if length == 1 else states[:, -1].clone()
    return y, last, states


def _groups(h: Tensor, groups: int) -> list[tuple[Tensor, slice]]:
    """Views [B, H / G * P, N] of a state [B, H, P, N], and the heads in each."""
    step = h.shape[1] // groups
    slices = [slice(start, start + step) for start in range(0, h.shape[1], step)]
    return [(h[:, heads].flatten(1, 2), heads) for heads in slices]


def _backward(inputs, states, grad_y, grad_last, grad_states):
    """Gradients of x, decay, B, C and the initial state."""
    x, decay, B, C, initial, reset = inputs
    factor, keep = _prepared(decay, reset)
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    grad_x, grad_decay = torch.empty_like(grad_y), torch.empty_like(decay)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    grad = torch.zeros(initial.shape, dtype=x.dtype, device=x.device)
    if grad_last is not None:
        grad.copy_(grad_last)
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
        grad_decay = grad_decay.masked_fill(reset[..., None], 0.0)
    return grad_x, grad_decay, grad_B, grad_C, grad
