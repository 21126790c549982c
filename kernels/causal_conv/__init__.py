"""Depthwise convolution over the past, and the window of inputs that is its state."""

import torch
from torch import Tensor

from worldmodels.kernels.dispatch import load
from worldmodels.kernels.sequence import (
    Emit,
    check_emit,
    check_reset,
    check_sequence,
    check_shape,
    flat_positions,
    no_autocast,
    segments,
    wide_dtype,
)

_NAME = "causal_conv"


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reset: Tensor | None = None,
    initial_window: Tensor | None = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = activation(bias + sum_k weight[:, k] x_{t-W+1+k}), over inputs since the last reset.

    Shapes: x [B, T, D]; weight [D, W], W at least 2; bias [D]; activation None or "silu"; reset
    bool [B, T]: step t sees no earlier input; initial_window [B, W-1, D]: the inputs before step
    0, the oldest first, zeros if None.

    Returns y [B, T, D] in the dtype of x and the last window [B, W-1, D], in which inputs from
    before the last reset are zero. Windows and arithmetic are float32 (float64 where x is).
    Gradients reach every tensor from both, once. `implementation` overrides the choice of
    `dispatch`. Raises ValueError for a wrong shape, activation or implementation.
    Source: the convolution in front of the scan of Mamba (arXiv 2312.00752).
    """
    check_sequence(_NAME, "x", x, 3)
    channels = x.shape[2]
    check_shape(_NAME, "weight", weight, (channels, weight.shape[-1]))
    width = weight.shape[1]
    _check(x, width, reset, initial_window)
    check_shape(_NAME, "bias", bias, (channels,))
    if activation not in (None, "silu"):
        raise ValueError(f"{_NAME}: activation is {activation!r}; give None or 'silu'")
    run = load(_NAME, x, implementation)
    with no_autocast(x):
        return run(x, weight, bias, activation, reset, initial_window)


def conv_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reset: Tensor | None = None,
    window: Tensor,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `causal_conv`, without the time axis: y [B, D] and the next window [B, W-1, D].

    x [B, D]; reset bool [B]; window [B, W-1, D]. The kernels have tiles of their own for it.
    """
    y, window = causal_conv(
        x[:, None],
        weight,
        bias,
        activation,
        reset=None if reset is None else reset[:, None],
        initial_window=window,
        implementation=implementation,
    )
    return y[:, 0], window


def windows(
    x: Tensor,
    width: int,
    *,
    reset: Tensor | None = None,
    initial_window: Tensor | None = None,
    emit: Emit,
) -> Tensor:
    """The window that `causal_conv` of that `width` would carry on after the emitted steps.

    x [B, T, D], reset and initial_window as there; emit "all" or int64 [M, 2] of (b, t)
    -> [M, W-1, D] in float32 (float64 where x is), differentiable. Raises ValueError for a wrong
    shape or emit.
    """
    check_sequence(_NAME, "x", x, 3)
    _check(x, width, reset, initial_window)
    check_emit(_NAME, emit)
    if emit is None:
        raise ValueError(f"{_NAME}: emit is None; give windows 'all' or int64 [M, 2]")
    batch, length, channels = x.shape
    dtype = wide_dtype(x)
    if initial_window is None:
        initial_window = x.new_zeros(batch, width - 1, channels, dtype=dtype)
    inputs = torch.cat([initial_window.to(dtype), x.to(dtype)], 1)
    if isinstance(emit, Tensor):
        row, last = emit.unbind(1)
    else:
        flat = torch.arange(batch * length, device=x.device)
        row, last = flat // length, flat % length
    tail = torch.arange(1, width, device=x.device)
    places = flat_positions(torch.stack([row, last], 1), inputs.shape[1])[:, None] + tail
    found = inputs.flatten(0, 1).index_select(0, places.flatten())
    found = found.view(-1, width - 1, channels)
    if reset is None:
        return found
    segment = torch.nn.functional.pad(segments(reset), (width - 1, 0)).flatten()
    old = segment[places] != segment[places[:, -1:]]
    return found.masked_fill(old[:, :, None], 0.0)


def _check(x: Tensor, width: int, reset: Tensor | None, initial_window: Tensor | None) -> None:
    if width < 2:
        raise ValueError(f"{_NAME}: the width is {width}; give at least 2")
    batch, length, channels = x.shape
    check_reset(_NAME, reset, batch, length)
    check_shape(_NAME, "initial_window", initial_window, (batch, width - 1, channels))
