"""One pass per tap, a few rows at a time, and a backward that keeps the inputs alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.launch import needs_operator, operator
from worldmodels.kernels.sequence import no_autocast, row_blocks, segments, wide_dtype

_CACHED = 2**19
"""Bytes of the inputs that a CPU works on at a time."""


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reset: Tensor | None,
    initial_window: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `worldmodels.kernels.causal_conv.causal_conv`."""
    dtype, result_dtype = wide_dtype(x), x.dtype
    x, taps = x.to(dtype), weight.to(dtype).T.contiguous()
    past = taps.shape[0] - 1
    if initial_window is None:
        window = x.new_zeros(x.shape[0], past, x.shape[2])
    else:
        window = initial_window.to(dtype)
    bits = None if reset is None else _tap_bits(reset, past, dtype)
    if bias is not None:
        bias = bias.to(dtype)
    inputs = (x, window, taps, bias, bits)
    run: Any = _operator if needs_operator(inputs) else _forward
    y = run(*inputs, activation == "silu")
    recent = torch.cat([window[:, x.shape[1] :], x[:, -past:]], 1)
    if reset is not None:
        segment = F.pad(segments(reset), (past, 0))
        old = segment[:, -past:] != segment[:, -1:]
        recent = recent.masked_fill(old[:, :, None], 0.0)
    return y.to(result_dtype), recent


def _tap_bits(reset: Tensor, past: int, dtype: torch.dtype) -> Tensor:
    """Integers [W - 1, B, T]: all bits set where no reset lies between t - W + 1 + k and t."""
    segment = F.pad(segments(reset), (past, 0))
    length = reset.shape[1]
    seen = [segment[:, k : k + length] == segment[:, past:] for k in range(past)]
    return -torch.stack(seen).to(torch.int64 if dtype == torch.float64 else torch.int32)


def _sources(x: Tensor, window: Tensor, bits: Tensor | None, rows: slice) -> list[Tensor]:
    """For each tap the inputs that it sees, [rows, T, D]; zeros across a reset."""
    joined = torch.cat([window[rows], x[rows]], 1)
    sources = [joined[:, k : k + x.shape[1]] for k in range(window.shape[1] + 1)]
    if bits is None:
        return sources
    kept = [
        source.view(bits.dtype).bitwise_and(mask[rows, :, None]).view(x.dtype)
        for source, mask in zip(sources[:-1], bits, strict=True)
    ]
    return [*kept, sources[-1]]


def _convolved(sources: list[Tensor], taps: Tensor, bias: Tensor | None) -> Tensor:
    total = sources[0] * taps[0]
    for source, tap in zip(sources[1:], taps[1:], strict=True):
        total.addcmul_(source, tap)
    return total if bias is None else total.add_(bias)


def _forward(
    x: Tensor,
    window: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    bits: Tensor | None,
    silu: bool,
) -> Tensor:
    """y [B, T, D]; x of the same shape, window [B, W-1, D], taps [W, D], bits as `_tap_bits`."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for rows in row_blocks(y, _CACHED):
        total = _convolved(_sources(x, window, bits, rows), taps, bias)
        y[rows] = F.silu(total, inplace=True) if silu else total
    return y


def _forward_shapes(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_operator = operator("causal_conv_eager", _forward_shapes)(_forward)


def _backward_shapes(grad_y: Tensor, x: Tensor, window: Tensor, taps: Tensor, bias, *_: Any):
    """Empty: gradients of the window and x, one after the other, of the taps and of the bias."""
    joined = x.new_empty(x.shape[0], window.shape[1] + x.shape[1], x.shape[2])
    return joined, torch.empty_like(taps), taps.new_empty(0 if bias is None else bias.shape)


@operator("causal_conv_eager_backward", _backward_shapes)
def _backward(
    grad_y: Tensor,
    x: Tensor,
    window: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    bits: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    results = _backward_shapes(grad_y, x, window, taps, bias)
    joined, grad_taps, grad_bias = (result.zero_() for result in results)
    past, length = window.shape[1], x.shape[1]
    for rows in row_blocks(x, _CACHED):
        g, sources = grad_y[rows], _sources(x, window, bits, rows)
        if silu:
            g = torch.ops.aten.silu_backward(g, _convolved(sources, taps, bias))
        if bias is not None:
            grad_bias += g.sum((0, 1))
        for k, source in enumerate(sources):
            grad_taps[k] += (g * source).sum((0, 1))
            part = g * taps[k]
            if bits is not None and k < past:
                part.view(bits.dtype).bitwise_and_(bits[k, rows, :, None])
            joined[rows, k : k + length] += part
    return joined, grad_taps, grad_bias


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, window, taps, bias, bits = ctx.saved_tensors
    with no_autocast(x):
        found = _backward(grad_y, x, window, taps, bias, bits, ctx.silu)
    (joined, grad_taps, grad_bias), past = found, window.shape[1]
    grad_bias = None if bias is None else grad_bias
    return joined[:, past:], joined[:, :past], grad_taps, grad_bias, None, None


_operator.register_autograd(_differentiate, setup_context=_save)
