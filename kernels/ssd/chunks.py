"""Chunks of time as matrix products, with a hand-written backward.

Within a chunk the outputs are (C B^T * M) X with M_ij the decay from j to i; between chunks the
state is carried. Section 6 of Mamba-2 (arXiv 2405.21060). The gradient of the logarithm of the
decay is a sum over later steps of <grad y, y> - <grad x, x>, restarted at every reset.
"""

import math
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.launch import operator
from worldmodels.kernels.sequence import no_autocast, row_blocks, sum_dtype

_CACHED = 2**21
"""Bytes of the states that a CPU works on at a time."""


class _Decays:
    """The decays of one chunk of Q steps, from logarithms [B, Q, H] and resets [B, Q] or None."""

    def __init__(self, decay: Tensor, reset: Tensor | None):
        length, dtype = decay.shape[1], decay.dtype
        same = torch.ones(length, length, dtype=torch.bool, device=decay.device).tril()[None]
        # Differences of sums in float64: steps that decay by e-100 must not blur their neighbours.
        total = decay.to(sum_dtype(decay)) * math.log2(math.e)
        if reset is None:
            total = total.cumsum(1)
            into, out = total.exp2(), (total[:, -1:] - total).exp2()
        else:
            segment = reset.cumsum(1)
            same = same & (segment[:, :, None] == segment[:, None, :])
            total = same.to(total.dtype) @ total  # since the last reset: no bit of the past remains
            into = total.exp2().masked_fill_((segment > 0)[..., None], 0.0)
            out = (total[:, -1:] - total).exp2_()
            out = out.masked_fill_((segment < segment[:, -1:])[..., None], 0.0)
        by_head = total.transpose(1, 2)
        inside = decay.new_empty(*by_head.shape, length)
        torch.sub(by_head[..., None], by_head[..., None, :], out=inside)
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


def _add_products(state: Tensor, x: Tensor, B: Tensor) -> None:
    """Add x^T B, with x [B, G, Q, H / G * P] and B [B, G, Q, N], to a state [B, H, P, N]."""
    by_group = state.view(-1, x.shape[3], B.shape[3])
    by_group.baddbmm_(x.mT.flatten(0, 1), B.flatten(0, 1))


def _forward_shapes(x: Tensor, decay, B, C, initial: Tensor, reset, chunk: int):
    """Empty: y [B, T, H, P], the last state [B, H, P, N], those between chunks [nc - 1, B, ...]."""
    between = (x.shape[1] - 1) // chunk
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, initial.new_empty(initial.shape), initial.new_empty(between, *initial.shape)


def chunks_forward(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = exp(decay_t) h_{t-1} + x_t B_t^T, y_t = h_t C_t, and the states between chunks.

    x [B, T, H, P]; decay [B, T, H], its logarithm; B, C [B, T, G, N] -> y [B, T, H, P], the last
    state [B, H, P, N] and the states between chunks [nc - 1, B, H, P, N].
    """
    y, last, between = _forward_shapes(x, decay, B, C, initial, reset, chunk)
    heads, groups = x.shape[2], B.shape[2]
    starts = range(0, x.shape[1], chunk)
    for rows in row_blocks(initial, _CACHED):
        state = initial[rows]
        for c, start in enumerate(starts):
            cut = (rows, slice(start, start + chunk))
            d = _Decays(decay[cut], None if reset is None else reset[cut])
            b, r = B[cut].transpose(1, 2), C[cut].transpose(1, 2)
            by_group = state.unflatten(1, (groups, -1)).flatten(2, 3)
            torch.mul(_by_step(r @ by_group.mT, heads), d.into[..., None], out=y[cut])
            mixed = d.inside.unflatten(1, (groups, -1)).mul_((r @ b.mT)[:, :, None]).flatten(1, 2)
            y[cut].add_((mixed @ x[cut].transpose(1, 2)).transpose(1, 2))
            into = last[rows] if c == len(starts) - 1 else between[c, rows]
            torch.mul(state, d.across[..., None, None], out=into)
            state = into
            weighted = _grouped(x[cut] * d.out[..., None], groups)
            _add_products(state, weighted, b)
    return y, last, between


chunks = operator("ssd_chunks_eager", _forward_shapes)(chunks_forward)


def _backward_shapes(grad_y, grad_last, grad_between, x, decay, B, C, initial, *_: Any):
    """Empty gradients of x, decay, B, C and the initial state."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    like = [torch.empty_like(x) for x in (decay, B, C)]
    return grad_x, *like, initial.new_empty(initial.shape)


@operator("ssd_chunks_eager_backward", _backward_shapes)
def chunks_backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    grad_between: Tensor | None,
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    reset: Tensor | None,
    y: Tensor,
    last: Tensor,
    between: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, decay, B, C and the initial state."""
    found = _backward_shapes(grad_y, grad_last, grad_between, x, decay, B, C, initial)
    grad_x, grad_decay, grad_B, grad_C, grad_initial = found
    heads, groups = x.shape[2], B.shape[2]
    starts = range(0, x.shape[1], chunk)
    for rows in row_blocks(initial, _CACHED):
        g = torch.zeros_like(last[rows]) if grad_last is None else grad_last[rows].contiguous()
        after = last[rows]
        for c in reversed(range(len(starts))):
            cut = (rows, slice(starts[c], starts[c] + chunk))
            before = between[c - 1, rows] if c else initial[rows]
            cut_reset = None if reset is None else reset[cut]
            d = _Decays(decay[cut], cut_reset)
            gy, xs, gx = grad_y[cut], x[cut], grad_x[cut]
            gy_by_head = gy.transpose(1, 2).contiguous()
            b, r = B[cut].transpose(1, 2), C[cut].transpose(1, 2)
            by_group = before.unflatten(1, (groups, -1)).flatten(2, 3)
            g_by_group = g.unflatten(1, (groups, -1)).flatten(2, 3)
            weighted_gy = _grouped(gy * d.into[..., None], groups)
            weighted_x = _grouped(xs * d.out[..., None], groups)
            grouped = d.inside.unflatten(1, (groups, -1))
            x_by_head = xs.transpose(1, 2).contiguous()
            pairs = (gy_by_head @ x_by_head.mT).unflatten(1, (groups, -1))
            pairs = pairs.mul_(grouped).sum(2)
            grad_C[cut] = (pairs @ b + weighted_gy @ by_group).transpose(1, 2)
            grad_B[cut] = (pairs.mT @ r + weighted_x @ g_by_group).transpose(1, 2)
            mixed = grouped.mul_((r @ b.mT)[:, :, None]).flatten(1, 2)
            torch.mul(_by_step(b @ g_by_group.mT, heads), d.out[..., None], out=gx)
            gx.add_((mixed.mT @ gy_by_head).transpose(1, 2))
            later = (gy * y[cut]).addcmul_(gx, xs, value=-1).sum(-1)
            later[:, -1] += (g * after).sum((2, 3))
            grad_decay[cut] = d.same.to(later.dtype).mT @ later
            if cut_reset is not None:
                grad_decay[cut].masked_fill_(cut_reset[..., None], 0.0)
            g = g * d.across[..., None, None]
            _add_products(g, weighted_gy, r)
            if c and grad_between is not None:
                g.add_(grad_between[c - 1, rows])
            after = before
        grad_initial[rows] = g
    return grad_x, grad_decay, grad_B, grad_C, grad_initial


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_last, grad_between) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(saved[6])
    with no_autocast(saved[0]):
        found = chunks_backward(grad_y, grad_last, grad_between, *saved, ctx.chunk)
    return *found, None, None


chunks.register_autograd(_differentiate, setup_context=_save)
