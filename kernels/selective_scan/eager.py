"""The loop over time in place, on states that stay in the cache, with a hand-written backward.

Per step and state the forward costs one exponential and the backward one more; what the backward
needs besides its inputs are the states. Where these exceed `_STORED` bytes, stretches of time are
recomputed instead.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from worldmodels.kernels.launch import learns, needs_operator, operator
from worldmodels.kernels.sequence import (
    Emit,
    flat_positions,
    keep_bits,
    no_autocast,
    row_blocks,
    wide_dtype,
)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""delta u, delta, A, B, C, the initial state, the bits that resets keep."""

_STORED = 2**30
"""Bytes of states that a call stores at most, unless all of them are emitted."""
_STRETCH = 2**27
"""Bytes of states of one stretch that is recomputed."""
_CACHED = 2**20
"""Bytes of the states that a CPU works on at a time, of as much again and of what it stores."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.selective_scan.selective_scan`."""
    dtype, result_dtype = wide_dtype(u), u.dtype
    u, delta, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    if initial_state is None:
        initial_state = u.new_zeros(u.shape[0], *A.shape)
    keep = None if reset is None else keep_bits(reset, dtype)
    inputs = (delta * u, delta, A, B, C, initial_state.to(dtype), keep)
    y, last, emitted = _scan(inputs, emit)
    if D is not None:
        y = torch.addcmul(y, u, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(result_dtype), last, emitted


def _scan(inputs: Inputs, emit: Emit) -> tuple[Tensor, Tensor, Tensor | None]:
    """In one piece, or in stretches of time where the states to store are too many."""
    length, last = inputs[0].shape[1], inputs[5]
    step_bytes = last.numel() * last.element_size()
    store = learns(inputs) or emit is not None
    if store and not isinstance(emit, str) and length * step_bytes > _STORED:
        return _in_stretches(*inputs, emit, max(_STRETCH // step_bytes, 1))
    return _in_one_piece(inputs, emit)


def _in_one_piece(inputs: Inputs, emit: Emit) -> Any:
    run: Any = _operator if needs_operator(inputs) else _forward
    y, last, states = run(*inputs, learns(inputs) or emit is not None)
    if emit is None:
        return y, last, None
    emitted = states.flatten(0, 1)
    if isinstance(emit, Tensor):
        emitted = emitted.index_select(0, flat_positions(emit, inputs[0].shape[1]))
    return y, last, emitted


def _in_stretches(x, delta, A, B, C, last, keep, emit: Tensor | None, stretch: int):
    """Only the states between stretches are stored; the backward runs each of them again."""
    outputs = []
    emitted = A.new_zeros(0 if emit is None else emit.shape[0], *A.shape)
    for start in range(0, x.shape[1], stretch):
        cut = (slice(None), slice(start, start + stretch))
        kept = None if keep is None else keep[cut]
        inputs = (x[cut], delta[cut], A, B[cut], C[cut], last, kept)
        positions, here = None, None
        if emit is not None:
            step = emit[:, 1] - start
            here = (step >= 0) & (step < stretch)
            positions = torch.stack([emit[:, 0], torch.where(here, step, 0)], 1)
        y, last, found = checkpoint(
            _in_one_piece, inputs, positions, use_reentrant=False, preserve_rng_state=False
        )
        if here is not None:
            emitted = torch.where(here[:, None, None], found, emitted)
        outputs.append(y)
    return torch.cat(outputs, 1), last, None if emit is None else emitted


def _forward_shapes(x: Tensor, delta: Tensor, A: Tensor, B, C, initial, keep, store: bool):
    """Empty: y [B, T, I], the last state [B, I, N], all states [B, T, I, N], of none if not."""
    batch, length = x.shape[:2]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = x.new_empty(batch, length if store else 0, *A.shape)
    return y, x.new_empty(batch, *A.shape), states


def _forward(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    keep: Tensor | None,
    store: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + x_t B_t, y_t = sum_n h_t C_t; all h_t too if `store`."""
    y, last, states = _forward_shapes(x, delta, A, B, C, initial, keep, store)
    rate = A * math.log2(math.e)
    for rows in row_blocks(last, _CACHED):
        xs, deltas = x[rows, ..., None].unbind(1), delta[rows, ..., None].unbind(1)
        Bs, Cs = B[rows, :, None].unbind(1), C[rows, :, None].unbind(1)
        keeps = None if keep is None else keep[rows, :, None, None].unbind(1)
        ys = y[rows, :, None].unbind(1)
        targets = states[rows].unbind(1) if store else [last[rows]] * x.shape[1]
        h, decay = initial[rows], torch.empty_like(last[rows])
        for t, target in enumerate(targets):
            torch.mul(deltas[t], rate, out=decay).exp2_()
            h = torch.mul(decay, h, out=target)
            if keeps is not None:
                h.view(keeps[t].dtype).bitwise_and_(keeps[t])
            # A row times a transposed matrix is the fastest of the equivalent products.
            torch.bmm(Cs[t], h.addcmul_(xs[t], Bs[t]).mT, out=ys[t])
        if store:
            last[rows] = h
    return y, last, states


_operator = operator("selective_scan_eager", _forward_shapes)(_forward)


def _backward_shapes(grad_y, grad_last, grad_states, x, delta, A, B, C, initial, *_: Any):
    """Empty gradients of x, delta, A, B, C and the initial state."""
    like = [torch.empty_like(x) for x in (x, delta, A, B, C)]
    return *like, initial.new_empty(initial.shape)


@operator("selective_scan_eager_backward", _backward_shapes)
def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    grad_states: Tensor | None,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    keep: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = _backward_shapes(grad_y, grad_last, grad_states, x, delta, A, B, C, initial)
    grad_x, grad_delta, grad_A, grad_B, grad_C, g = found
    grad_A.zero_()
    g.zero_() if grad_last is None else g.copy_(grad_last)
    rate, ones = A * math.log2(math.e), A.new_ones(A.shape[1])
    for rows in row_blocks(g, _CACHED):
        here = g[rows]
        decay, along = torch.empty_like(here), torch.zeros_like(here)
        for t in reversed(range(x.shape[1])):
            d, gy, h = delta[rows, t, :, None], grad_y[rows, t, :, None], states[rows, t]
            before = states[rows, t - 1] if t else initial[rows]
            here.addcmul_(gy, C[rows, t, None])
            if grad_states is not None:
                here.add_(grad_states[rows, t])
            torch.bmm(gy.mT, h, out=grad_C[rows, t, None])
            torch.bmm(x[rows, t, None], here, out=grad_B[rows, t, None])
            torch.bmm(B[rows, t, None], here.mT, out=grad_x[rows, t, None])
            here.mul_(torch.mul(d, rate, out=decay).exp2_())
            # The gradient of the logarithm of the decay.
            torch.mul(here, before, out=decay)
            if keep is not None:
                kept = keep[rows, t, None, None]
                here.view(kept.dtype).bitwise_and_(kept)
                decay.view(kept.dtype).bitwise_and_(kept)
            along.addcmul_(decay, d)
            grad_delta[rows, t] = torch.mv(decay.mul_(A).flatten(0, 1), ones).view(d.shape[:2])
        grad_A += along.sum(0)
    return grad_x, grad_delta, grad_A, grad_B, grad_C, g


def _save(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_last, grad_states) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: checkpoints allow no more
    if grad_y is None:
        grad_y = torch.zeros_like(saved[0])
    with no_autocast(saved[0]):
        return *_backward(grad_y, grad_last, grad_states, *saved), None, None


_operator.register_autograd(_differentiate, setup_context=_save)
