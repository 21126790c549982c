"""States at requested steps: the state at the start of the chunk, decayed, and one product each.

A few requests at a time, and the backward computes their factors again, so that besides the result
only the states between chunks are kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.launch import needs_operator, operator
from worldmodels.kernels.sequence import no_autocast, segments, sum_dtype

_SLICE = 2**22
"""Bytes of the states that are computed at a time."""


def emitted_states(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    before: Tensor,
    reset: Tensor | None,
    emit: Tensor,
    chunk: int,
) -> Tensor:
    """The states [M, H, P, N] after the steps `emit`, int64 [M, 2] of (b, t).

    x [B, T, H, P] scaled inputs; decay [B, T, H] its logarithm; B [B, T, G, N]; before
    [nc, B, H, P, N] the states before the chunks of `chunk` steps; reset bool [B, T] or None.
    """
    inputs = (x, decay, B, before, reset, *emit.unbind(1))
    run: Any = _operator if needs_operator(inputs) else _forward
    return run(*inputs, chunk)


def _forward_shapes(x: Tensor, decay, B, before: Tensor, reset, row: Tensor, *_: Any) -> Tensor:
    return x.new_empty(row.shape[0], *before.shape[2:])


def _forward(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    before: Tensor,
    reset: Tensor | None,
    row: Tensor,
    step: Tensor,
    chunk: int,
) -> Tensor:
    """The states after `step` [M] of `row` [M]."""
    result = _forward_shapes(x, decay, B, before, reset, row)
    given, groups = (decay, before, reset, row, step), B.shape[2]
    for part, index, places, _, weight, carried in _slices(*given, chunk):
        inputs = _grouped(x.flatten(0, 1)[places] * weight[..., None], groups)
        pair = B.flatten(0, 1)[places].transpose(1, 2)
        found = torch.mul(before[index], carried[..., None, None], out=result[part])
        by_group = found.view(-1, inputs.shape[3], pair.shape[3])
        by_group.baddbmm_(inputs.mT.flatten(0, 1), pair.flatten(0, 1))
    return result


_operator = operator("ssd_emission_eager", _forward_shapes)(_forward)


def _backward_shapes(grad: Tensor, x, decay, B, before, *_: Any):
    """Empty gradients of x, decay, B and the states before the chunks."""
    return tuple(x.new_empty(x.shape) for x in (x, decay, B, before))


@operator("ssd_emission_eager_backward", _backward_shapes)
def _backward(
    grad: Tensor,
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    before: Tensor,
    reset: Tensor | None,
    row: Tensor,
    step: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With w_j the decay from j to the step and c that from before the chunk, at one request:

    gX_j = w_j G B_j,   gB_j = w_j X_j G,   gH = c G;   a logarithm of the decay, of step k, is in
    w_j for j < k and in c: its gradient is sum_(j < k) <gX_j, X_j> + <gH, H>
    """
    results = _backward_shapes(grad, x, decay, B, before)
    grad_x, grad_decay, grad_B, grad_before = (result.zero_() for result in results)
    given = (decay, before, reset, row, step)
    heads, groups = x.shape[2], B.shape[2]
    for part, index, places, past, weight, carried in _slices(*given, chunk):
        G = grad[part]
        gH = carried[..., None, None] * G
        grad_before.index_put_(index, gH, accumulate=True)
        entering = (gH * before[index]).sum((2, 3))
        by_group = G.unflatten(1, (groups, -1)).flatten(2, 3)
        xs, pair = x.flatten(0, 1)[places], B.flatten(0, 1)[places].transpose(1, 2)
        gX = (pair @ by_group.mT).transpose(1, 2).flatten(2).unflatten(2, (heads, -1))
        gX *= weight[..., None]
        grad_x.flatten(0, 1).index_put_((places,), gX, accumulate=True)
        gB = (_grouped(xs * weight[..., None], groups) @ by_group).transpose(1, 2)
        grad_B.flatten(0, 1).index_put_((places,), gB, accumulate=True)
        earlier = F.pad((gX * xs).sum(-1)[:, :-1], (0, 0, 1, 0)).cumsum(1)
        gl = torch.where(past[..., None], earlier + entering[:, None], 0.0)
        grad_decay.flatten(0, 1).index_put_((places,), gl, accumulate=True)
    return grad_x, grad_decay, grad_B, grad_before


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    with no_autocast(grad):
        return *_backward(grad, *saved, ctx.chunk), None, None, None, None


_operator.register_autograd(_differentiate, setup_context=_save)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[m, Q, H, P] -> [m, G, Q, H / G * P]."""
    return x.unflatten(2, (groups, -1)).flatten(3).transpose(1, 2)


def _slices(decay, before, reset, row, step, chunk: int) -> Iterator[tuple]:
    """The requests m at a time: which, where in `before` their chunks start, and `_decays`."""
    size = max(_SLICE // (before[0, 0].numel() * before.element_size()), 1)
    for start in range(0, row.shape[0], size):
        part = slice(start, start + size)
        index = step[part] // chunk, row[part]
        yield part, index, *_decays(decay, reset, row[part], step[part], chunk)


def _decays(decay, reset, row: Tensor, step: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """The places b * T + t [m, Q] of the steps of a chunk, and what reaches `step` from there.

    That is: whether the step is not later and no reset lies between [m, Q], the decay from each
    [m, Q, H], zero where not, and the decay of the state before the chunk [m, H].
    """
    length = decay.shape[1]
    steps = (step // chunk)[:, None] * chunk + torch.arange(chunk, device=decay.device)
    past, cut = steps <= step[:, None], None
    places = row[:, None] * length + steps.clamp(max=length - 1)
    if reset is not None:
        segment = segments(reset).flatten()
        first, now = places[:, 0], row * length + step
        past = past & (segment[places] == segment[now][:, None])
        cut = (segment[now] > segment[first]) | reset.flatten()[first]
    total = decay.flatten(0, 1)[places].to(sum_dtype(decay))
    total = total.masked_fill(~past[..., None], 0.0).cumsum(1)
    weight, carried = total[:, -1:] - total, total[:, -1].exp()
    if cut is not None:
        carried = carried.masked_fill(cut[:, None], 0.0)
    weight = weight.masked_fill(~past[..., None], -torch.inf).exp()
    return places, past, weight.to(decay.dtype), carried.to(decay.dtype)
