"""The convolution on a GPU: one pass forward and one backward over what are memory reads.

The W-1 rows of the window and the T rows of x are one axis of time, -(W-1) to T-1, cut into
stretches of a few steps. A program has a stretch of one row in registers, together with the W-1
steps before it and, backward, the W-1 after it, so that all of its loads are under way at once.

What is summed over rows and time, and so over programs, is stored in one part per program and
summed by torch: there are no atomics, and two runs agree bit for bit.
"""

# The types of Triton's language describe what the compiler sees, not what Python does.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodels.kernels.launch import DTYPES, launch, operator

_WIDEST = 4
_STEPS, _CHANNELS = 8, 256
_STEPS_BACKWARD, _CHANNELS_BACKWARD = 5, 128
"""Of a program. More steps share the loads around them, but more registers are taken."""
_WARPS = 2
_SUMMING = 2048
"""About how many programs the backward has at most; each of them stores a part of the sums."""


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reset: Tensor | None,
    initial_window: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `worldmodels.kernels.causal_conv.causal_conv`; here W is at most 4."""
    if weight.shape[1] > _WIDEST:
        raise ValueError(
            f"causal_conv: the Triton kernel has 2 to {_WIDEST} taps, not {weight.shape[1]}; "
            'choose implementation="eager"'
        )
    inputs = (x, weight, bias, reset, initial_window)
    floating = {tensor.dtype for tensor in inputs if tensor is not None} - {torch.bool}
    if wrong := floating - set(DTYPES):
        raise ValueError(
            f'causal_conv: the Triton kernel takes no {wrong.pop()}; choose implementation="eager"'
        )
    inputs = [tensor if tensor is None else tensor.contiguous() for tensor in inputs]
    return _conv(*inputs, activation == "silu")


@operator("causal_conv")
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reset: Tensor | None,
    window: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """y and the last window."""
    (batch, length, channels), width = x.shape, int(weight.shape[1])
    steps = 1 if length == 1 else _STEPS
    y = torch.empty_like(x)
    last = x.new_empty(batch, width - 1, channels, dtype=torch.float32)
    launch(
        _forward_kernel,
        (batch * triton.cdiv(length, steps), triton.cdiv(channels, _CHANNELS)),
        warps=_WARPS,
        x=x,
        weight=weight,
        bias=bias,
        reset=reset,
        window=window,
        y=y,
        last=last,
        T=length,
        D=channels,
        W=width,
        SILU=silu,
        STEPS=steps,
        CHANNELS=_CHANNELS,
    )
    return y, last


@operator("causal_conv_backward")
def _conv_backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reset: Tensor | None,
    window: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the weight, the bias and the window; empty for what is not there."""
    (batch, length, channels), width = x.shape, int(weight.shape[1])
    stretches = batch * triton.cdiv(length + width - 1, _STEPS_BACKWARD)
    blocks = triton.cdiv(channels, _CHANNELS_BACKWARD)
    programs = min(stretches, triton.cdiv(_SUMMING, max(blocks, 1)))
    grad_x = torch.empty_like(x)
    grad_window = x.new_empty(0) if window is None else torch.empty_like(window)
    sums = x.new_empty(programs, width + 1, channels, dtype=torch.float32)
    launch(
        _backward_kernel,
        (programs, blocks),
        warps=_WARPS,
        grad_y=grad_y,
        grad_last=grad_last,
        x=x,
        weight=weight,
        bias=bias,
        reset=reset,
        window=window,
        grad_x=grad_x,
        grad_window=grad_window,
        sums=sums,
        stretches=stretches,
        T=length,
        D=channels,
        W=width,
        SILU=silu,
        STEPS=_STEPS_BACKWARD,
        CHANNELS=_CHANNELS_BACKWARD,
    )
    total = sums.sum(0)
    grad_weight = total[:width].T.to(weight.dtype).contiguous()
    grad_bias = x.new_empty(0) if bias is None else total[width].to(bias.dtype, copy=True)
    return grad_x, grad_weight, grad_bias, grad_window


def _setup_context(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y, grad_last):
    x, weight, bias, reset, window = ctx.saved_tensors
    grad_y = torch.zeros_like(x) if grad_y is None else grad_y.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    grads = _conv_backward(grad_y, grad_last, x, weight, bias, reset, window, ctx.silu)
    grad_x, grad_weight, grad_bias, grad_window = grads
    grad_bias = None if bias is None else grad_bias
    grad_window = None if window is None else grad_window
    return grad_x, grad_weight, grad_bias, None, grad_window, None


_conv.register_autograd(_backward, setup_context=_setup_context)


@triton.jit
def _place(row, time, length, D, channel):
    """Offsets of [CHANNELS] in a tensor [B, length, D], and which exist: none beyond its times."""
    inside = (time >= 0) & (time < length)
    return row * (length * D) + (time * D + channel), channel < tl.where(inside, D, 0)


@triton.jit
def _load(tensor, row, time, length, D, channel):
    """Of a tensor [B, length, D], in float32; zero where there is nothing."""
    place, exists = _place(row, time, length, D, channel)
    return tl.load(tensor + place, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _store(tensor, row, time, length, D, channel, value):
    """To a tensor [B, length, D], where there is such a time."""
    place, exists = _place(row, time, length, D, channel)
    tl.store(tensor + place, value, mask=exists)


@triton.jit
def _input(x, window, row, time, T, D, channel, W: tl.constexpr):
    """x at a time, or the window before 0."""
    value = _load(x, row, time, T, D, channel)
    if window is not None:
        value += _load(window, row, time + W - 1, W - 1, D, channel)
    return value


@triton.jit
def _reset(reset, row, time, T):
    """1 where there is a reset at a time, else 0; none beyond 0 to T-1."""
    found = tl.load(reset + row * T + tl.minimum(tl.maximum(time, 0), T - 1)) != 0
    return (found & (time >= 0) & (time < T)).to(tl.int32)


@triton.jit
def _crossed(resets, i, j: tl.constexpr):
    """Whether there is a reset among the j steps up to the i-th."""
    return ((resets >> (i - j + 1)) & ((1 << j) - 1)) != 0


@triton.jit
def _parameters(weight, bias, D, channel, W: tl.constexpr):
    """The weights of the inputs of 0, 1, ... steps ago, and the bias."""
    taps = ()
    for j in tl.static_range(W):
        tap = tl.load(weight + channel * W + (W - 1 - j), mask=channel < D, other=0.0)
        taps += (tap.to(tl.float32),)
    if bias is None:
        offset = tl.zeros_like(taps[0])
    else:
        offset = tl.load(bias + channel, mask=channel < D, other=0.0).to(tl.float32)
    return taps, offset


@triton.jit
def _seen(inputs, resets, i: tl.constexpr, W: tl.constexpr):
    """The W inputs up to the i-th, the latest first; zero across a reset."""
    seen = (inputs[i],)
    for j in tl.static_range(1, W):
        seen += (tl.where(_crossed(resets, i, j), 0.0, inputs[i - j]),)
    return seen


@triton.jit
def _weighted(start, taps, values, W: tl.constexpr):
    """Start + sum_j taps_j values_j."""
    for j in tl.static_range(W):
        start += taps[j] * values[j]
    return start


@triton.jit
def _forward_kernel(
    x,
    weight,
    bias,
    reset,
    window,
    y,
    last,
    T,
    D,
    W: tl.constexpr,
    SILU: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """c_t = bias + sum_{j<W} w_j x_{t-j} [no reset in (t-j, t]];   y_t = c_t, or c_t sigmoid(c_t).

    w_j is weight[:, W-1-j]. One program: a stretch of one row of the batch, some channels. The
    one that reaches T writes the last window, x_t [no reset in (t, T-1]].
    """
    stretches = tl.cdiv(T, STEPS)
    row = (tl.program_id(0) // stretches).to(tl.int64)
    first = tl.program_id(0) % stretches * STEPS
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    taps, offset = _parameters(weight, bias, D, channel, W)
    inputs = ()
    resets = tl.full((), 0, tl.int32)
    for i in tl.static_range(W - 1 + STEPS):
        time = first - (W - 1) + i
        early = window if i < W - 1 else None
        inputs += (_input(x, early, row, time, T, D, channel, W),)
        if reset is not None:
            resets |= _reset(reset, row, time, T) << i
    for i in tl.static_range(STEPS):
        c = _weighted(offset, taps, _seen(inputs, resets, W - 1 + i, W), W)
        if SILU:
            c *= tl.sigmoid(c)
        _store(y, row, first + i, T, D, channel, c)

    if first + STEPS >= T:
        for j in tl.static_range(W - 1):
            own = _input(x, window, row, T - 1 - j, T, D, channel, W)
            own = tl.where(_crossed(resets, T - 1 - first + W - 1, j), 0.0, own)
            _store(last, row, W - 2 - j, W - 1, D, channel, own)


@triton.jit
def _backward_kernel(
    grad_y,
    grad_last,
    x,
    weight,
    bias,
    reset,
    window,
    grad_x,
    grad_window,
    sums,
    stretches,
    T,
    D,
    W: tl.constexpr,
    SILU: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """With d_t the gradient of c_t: gy_t, or gy_t s_t (1 + c_t (1 - s_t)), s_t = sigmoid(c_t):

        gx_t = sum_{j<W} w_j d_{t+j} [no reset in (t, t+j]] + glast_t [no reset in (t, T-1]]
        gw_j = sum_t d_t x_{t-j} [no reset in (t-j, t]];   gbias = sum_t d_t

    For t < 0, gx_t is the gradient of the window. The stretches of a row begin at -(W-1); with
    gx_t for its times goes a stretch's share of the sums over t, that of the times W-1 later. A
    program takes every so many-th stretch and adds up these shares.
    """
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    taps, offset = _parameters(weight, bias, D, channel, W)
    bias_share = tl.zeros([CHANNELS], tl.float32)
    tap_shares = (bias_share,) * W
    in_row = tl.cdiv(T + W - 1, STEPS)
    for stretch in range(tl.program_id(0), stretches, tl.num_programs(0)):
        row = (stretch // in_row).to(tl.int64)
        first = stretch % in_row * STEPS - (W - 1)
        inputs = ()
        resets = tl.full((), 0, tl.int32)
        gs = ()
        for i in tl.static_range(2 * (W - 1) + STEPS):
            time = first - (W - 1) + i
            early = window if i < 2 * (W - 1) else None
            inputs += (_input(x, early, row, time, T, D, channel, W),)
            if reset is not None:
                resets |= _reset(reset, row, time, T) << i
            if i >= W - 1:
                gs += (_load(grad_y, row, time, T, D, channel),)
        ds = ()
        for i in tl.static_range(W - 1 + STEPS):
            seen = _seen(inputs, resets, W - 1 + i, W)
            d = gs[i]
            if SILU:
                c = _weighted(offset, taps, seen, W)
                s = tl.sigmoid(c)
                # Before 0 there is no d, but c can be NaN, of a window that a reset cuts at 0.
                inside = (first + i >= 0) & (first + i < T)
                d = tl.where(inside, d * s * (1 + c * (1 - s)), 0.0)
            ds += (d,)
            if i >= W - 1:
                bias_share += d
                shares = ()
                for j in tl.static_range(W):
                    shares += (tap_shares[j] + d * seen[j],)
                tap_shares = shares
        for i in tl.static_range(STEPS):
            total = taps[0] * ds[i]
            for j in tl.static_range(1, W):
                crossed = _crossed(resets, W - 1 + i + j, j)
                total += taps[j] * tl.where(crossed, 0.0, ds[i + j])
            if grad_last is not None:
                g = _load(grad_last, row, first + i - T + W - 1, W - 1, D, channel)
                total += tl.where(_crossed(resets, 2 * (W - 1) + i, W - 1), 0.0, g)
            _store(grad_x, row, first + i, T, D, channel, total)
            if window is not None and i < W - 1:
                _store(grad_window, row, first + i + W - 1, W - 1, D, channel, total)
    part = tl.program_id(0).to(tl.int64) * (W + 1) * D + channel
    for j in tl.static_range(W):
        tl.store(sums + part + (W - 1 - j) * D, tap_shares[j], mask=channel < D)
    tl.store(sums + part + W * D, bias_share, mask=channel < D)
