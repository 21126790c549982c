"""Chunks of time as matrix products, with a hand-written backward.

Within a chunk the outputs are (C B^T * M) X with M_ij the decay from j to i; between chunks the
state is carried. Section 6 of Mamba-2 (arXiv 2405.21060). The gradient of the logarithm of the
decay is a sum over later steps of <grad y, y> - <grad x, x>, restarted at every reset.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodels.kernels.sequence import Emit, no_autocast, row_blocks, wide_dtype
from worldmodels.kernels.ssd.emission import emitted_states

_CACHED = 2**21
"""Bytes of the states that a CPU works on at a time."""
_EMITTING_CHUNK = 16
"""The longest chunk when states are emitted: each is computed from the start of its chunk."""


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk: int,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.ssd.ssd`."""
    dtype, result_dtype = wide_dtype(x), x.dtype
    x, dt, A, B, C = (tensor.to(dtype) for tensor in (x, dt, A, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3])
    if emit is not None:
        chunk = min(chunk, _EMITTING_CHUNK)
    decay = dt * A
    if reset is not None:
        # Never used there; without it, sums of the logarithm stay small.
        decay = decay.masked_fill(reset[:, :, None], 0.0)
    scaled = dt[..., None] * x
    inputs = (scaled, decay, B, C, initial_state.to(dtype), reset, chunk)
    learns = torch.is_grad_enabled() and any(i.requires_grad for i in inputs[:5])
    chunks: Any = _Chunks.apply if learns else _forward
    y, last, between = chunks(*inputs)
    emitted = None
    if emit is not None:
        before = torch.cat([inputs[4][:, None], between], 1)
        emitted = emitted_states(scaled, decay, B, before, reset, emit, chunk)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype).reshape(x.shape[2], -1))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(result_dtype), last, emitted


class _Chunks(torch.autograd.Function):
    """h_t = exp(decay_t) h_{t-1} + x_t B_t^T, y_t = h_t C_t, and the states between chunks."""

    @staticmethod
    def forward(ctx, x, decay, B, C, initial, reset, chunk: int):
        y, last, between = _forward(x, decay, B, C, initial, reset, chunk)
        ctx.save_for_backward(x, decay, B, C, initial, reset, y, last, between)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return y, last, between

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        with no_autocast(saved[0]):
            return *_backward(saved, ctx.chunk, *grads), None, None


class _Decays:
    """The decays of one chunk of Q steps, from logarithms [B, Q, H] and resets [B, Q] or None."""

    def __init__(self, decay: Tensor, reset: Tensor | None):
        length, dtype = decay.shape[1], decay.dtype
        # Differences of sums in float64: steps that decay by e-100 must not blur their neighbours.
        total = (decay.double() * math.log2(math.e)).cumsum(1)
        by_head = total.transpose(1, 2)
        inside = decay.new_empty(*by_head.shape, length)
        torch.sub(by_head[..., None], by_head[..., None, :], out=inside)
        same = torch.ones(length, length, dtype=torch.bool, device=decay.device).tril()[None]
        into, out = torch.exp2(total), torch.exp2(total[:, -1:] - total)
        if reset is not None:
            segment = reset.cumsum(1)
            same = same & (segment[:, :, None] == segment[:, None, :])
            into = into.masked_fill((segment > 0)[..., None], 0.0)
            out = out.masked_fill((segment < segment[:, -1:])[..., None], 0.0)
        bits = torch.int64 if dtype == torch.float64 else torch.int32
        inside.exp2_().view(bits).bitwise_and_(same[:, None].to(bits).neg_())
        self.inside = inside
        """[B, H, Q, Q]: from step j to step i, zero where j > i or a reset lies between."""
        self.into = into.to(dtype)
        """[B, Q, H]: from the state before the chunk to step i."""
        self.out = out.to(dtype)
        """[B, Q, H]: from step j to the state after the chunk."""
        self.across = self.into[:, -1]
        """[B, H]: from the state before to the state after."""
        self.same = same
        """[B or 1, Q, Q]: whether i >= j and no reset lies between."""


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[B, Q, H, P] -> [B, G, Q, H / G * P]."""
    return x.unflatten(2, (groups, -1)).flatten(3).transpose(1, 2)


def _by_step(x: Tensor, heads: int) -> Tensor:
    """[B, G, Q, H / G * P] -> [B, Q, H, P]."""
    return x.transpose(1, 2).flatten(2).unflatten(2, (heads, -1))


def _forward(x, decay, B, C, initial, reset, chunk: int):
    """y [B, T, H, P], the last state [B, H, P, N], the states between chunks [B, nc - 1, ...]."""
    batch, length, heads, _ = x.shape
    groups = B.shape[2]
    starts = range(0, length, chunk)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    last = torch.empty_like(initial, memory_format=torch.contiguous_format)
    between = initial.new_empty(batch, len(starts) - 1, *initial.shape[1:])
    for rows in row_blocks(initial, _CACHED):
        state = initial[rows]
        for c, start in enumerate(starts):
            cut = (rows, slice(start, start + chunk))
            d = _Decays(decay[cut], None if reset is None else reset[cut])
            b, r = B[cut].transpose(1, 2), C[cut].transpose(1, 2)
            by_group = state.unflatten(1, (groups, -1)).flatten(2, 3)
            carried = _by_step(r @ by_group.mT, heads) * d.into[..., None]
            mixed = d.inside.unflatten(1, (groups, -1)).mul_((r @ b.mT)[:, :, None]).flatten(1, 2)
            y[cut] = carried.add_((mixed @ x[cut].transpose(1, 2)).transpose(1, 2))
            into = last[rows] if c == len(starts) - 1 else between[rows, c]
            torch.mul(state, d.across[..., None, None], out=into)
            state = into
            weighted = _grouped(x[cut] * d.out[..., None], groups)
            state.unflatten(1, (groups, -1)).flatten(2, 3).add_(weighted.mT @ b)
    return y, last, between


def _backward(saved, chunk: int, grad_y, grad_last, grad_between):
    """Gradients of x, decay, B, C and the initial state."""
    x, decay, B, C, initial, reset, y, last, between = saved
    heads, groups = x.shape[2], B.shape[2]
    if grad_y is None:
        grad_y = torch.zeros_like(y)
    grad_initial = torch.empty_like(last)
    grad_x, grad_decay = torch.empty_like(y), torch.empty_like(decay)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    starts = range(0, x.shape[1], chunk)
    for rows in row_blocks(initial, _CACHED):
        g = torch.zeros_like(last[rows]) if grad_last is None else grad_last[rows]
        after = last[rows]
        for c in reversed(range(len(starts))):
            cut = (rows, slice(starts[c], starts[c] + chunk))
            before = between[rows, c - 1] if c else initial[rows]
            cut_reset = None if reset is None else reset[cut]
            d = _Decays(decay[cut], cut_reset)
            gy, xs = grad_y[cut], x[cut]
            b, r = B[cut].transpose(1, 2), C[cut].transpose(1, 2)
            by_group = before.unflatten(1, (groups, -1)).flatten(2, 3)
            g_by_group = g.unflatten(1, (groups, -1)).flatten(2, 3)
            gy_by_head = gy.transpose(1, 2)
            weighted_gy = _grouped(gy * d.into[..., None], groups)
            weighted_x = _grouped(xs * d.out[..., None], groups)
            grouped = d.inside.unflatten(1, (groups, -1))
            pairs = (gy_by_head @ xs.permute(0, 2, 3, 1)).unflatten(1, (groups, -1))
            pairs = pairs.mul_(grouped).sum(2)
            grad_C[cut] = (pairs @ b + weighted_gy @ by_group).transpose(1, 2)
            grad_B[cut] = (pairs.mT @ r + weighted_x @ g_by_group).transpose(1, 2)
            mixed = grouped.mul_((r @ b.mT)[:, :, None]).flatten(1, 2)
            gx = _by_step(b @ g_by_group.mT, heads) * d.out[..., None]
            gx.add_((mixed.mT @ gy_by_head).transpose(1, 2))
            grad_x[cut] = gx
            later = (gy * y[cut]).sub_(gx.mul_(xs)).sum(-1)
            later[:, -1] += (g * after).sum((2, 3))
            grad_decay[cut] = d.same.to(later.dtype).mT @ later
            if cut_reset is not None:
                grad_decay[cut].masked_fill_(cut_reset[..., None], 0.0)
            g = g * d.across[..., None, None]
            g.unflatten(1, (groups, -1)).flatten(2, 3).add_(weighted_gy.mT @ r)
            if c and grad_between is not None:
                g.add_(grad_between[rows, c - 1])
            after = before
        grad_initial[rows] = g
    return grad_x, grad_decay, grad_B, grad_C, grad_initial
