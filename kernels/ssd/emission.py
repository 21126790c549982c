"""States at requested steps: the state at the start of the chunk, decayed, and one product each.

A few requests at a time, and the backward computes them again, so that besides the result only the
states between chunks are kept.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    [B, nc, H, P, N] the states before the chunks of `chunk` steps; reset bool [B, T] or None.
    """
    row, step = emit.unbind(1)
    result = _Emitted.apply(x, decay, B, before, reset, row, step, chunk)
    assert isinstance(result, Tensor)
    return result


def _slices(before: Tensor, requests: int) -> list[slice]:
    size = max(_SLICE // (before[0, 0].numel() * before.element_size()), 1)
    return [slice(start, start + size) for start in range(0, requests, size)]


class _Emitted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, decay, B, before, reset, row, step, chunk: int):
        ctx.save_for_backward(x, decay, B, before, reset, row, step)
        ctx.chunk = chunk
        result = x.new_empty(len(row), *before.shape[2:])
        for part in _slices(before, len(row)):
            result[part] = _states(x, decay, B, before, reset, row[part], step[part], chunk)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, decay, B, before, reset, row, step = ctx.saved_tensors
        leaves = [leaf.detach().requires_grad_() for leaf in (x, decay, B, before)]
        x, decay, B, before = leaves
        with torch.enable_grad(), no_autocast(x):
            for part in _slices(before, len(row)):
                found = _states(x, decay, B, before, reset, row[part], step[part], ctx.chunk)
                torch.autograd.backward(found, grads[0][part], inputs=leaves)
        return *(leaf.grad for leaf in leaves), None, None, None, None


def _states(x, decay, B, before, reset, row, step, chunk: int) -> Tensor:
    """The states after `step` [m] of `row` [m]."""
    length, groups = x.shape[1], B.shape[2]
    number = step // chunk
    steps = number[:, None] * chunk + torch.arange(chunk, device=x.device)
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
    weight = weight.masked_fill(~past[..., None], -torch.inf).exp().to(x.dtype)
    inputs = x.flatten(0, 1)[places] * weight[..., None]
    inputs = inputs.unflatten(2, (groups, -1)).flatten(3).permute(0, 2, 3, 1)
    pair = B.flatten(0, 1)[places].transpose(1, 2)
    found = before[row, number].mul_(carried.to(x.dtype)[..., None, None])
    by_group = found.view(-1, inputs.shape[2], pair.shape[3])
    by_group.baddbmm_(inputs.flatten(0, 1), pair.flatten(0, 1))
    return found
