"""Chunks of time as matrix products, or one step after the other; states where they are asked."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.launch import needs_operator
from worldmodels.kernels.sequence import Emit, wide_dtype
from worldmodels.kernels.ssd.chunks import chunks, chunks_forward
from worldmodels.kernels.ssd.emission import emitted_states
from worldmodels.kernels.ssd.loop import loop, loop_forward

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
    decay = dt * A
    if reset is not None:
        # Never used there; without it, sums of the logarithm stay small.
        decay = decay.masked_fill(reset[:, :, None], 0.0)
    scaled = dt[..., None] * x
    inputs = (scaled, decay, B, C, initial_state.to(dtype), reset)
    y, last, emitted = _run(inputs, min(chunk, x.shape[1]), emit)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype).reshape(x.shape[2], -1))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(result_dtype), last, emitted


def _run(inputs: tuple, chunk: int, emit: Emit) -> tuple[Tensor, Tensor, Tensor | None]:
    x, decay, B, _, initial, reset = inputs
    run: Any
    if x.shape[1] == 1 or isinstance(emit, str):
        run = loop if needs_operator(inputs) else loop_forward
        y, last, states = run(*inputs, chunk)
        states = states.flatten(0, 1)
        last = states if x.shape[1] == 1 else last
        if isinstance(emit, Tensor):
            states = states.index_select(0, emit[:, 0])
        return y, last, None if emit is None else states
    if isinstance(emit, Tensor):
        chunk = min(chunk, _EMITTING_CHUNK)
    run = chunks if needs_operator(inputs) else chunks_forward
    y, last, between = run(*inputs, chunk)
    if not isinstance(emit, Tensor):
        return y, last, None
    before = torch.cat([initial[None], between])
    return y, last, emitted_states(x, decay, B, before, reset, emit, chunk)
