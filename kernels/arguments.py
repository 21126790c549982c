"""Arguments for calls of the operators over time, for self-test, compile check and benchmark.

By name and complete, as every implementation takes them. `draw(*shape)` makes a float32 tensor:
`partial(torch.randn, generator=...)`, or `partial(torch.empty, device="meta")` for shapes alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Draw = Callable[..., Tensor]

OPTIONAL = {
    "D",
    "z",
    "delta_bias",
    "dt_bias",
    "bias",
    "initial_state",
    "initial_window",
    "reset",
    "emit",
}
"""What may be None."""
STREAMS = {"u", "x", "delta", "dt", "z", "B", "C"}
"""What has a time axis: under autocast these have its dtype, while the others stay float32."""


def selective_scan(draw: Draw, batch: int, length: int, channels: int, states: int) -> Arguments:
    """Mamba-1: `states` states to each of `channels` channels."""
    along, pair = (batch, length, channels), (batch, length, states)
    return {
        "u": draw(*along),
        "delta": draw(*along),
        "A": -draw(channels, states).abs(),
        "B": draw(*pair),
        "C": draw(*pair),
        "D": draw(channels),
        "z": draw(*along),
        "delta_bias": draw(channels),
        "delta_softplus": True,
        "reset": None,
        "initial_state": draw(batch, channels, states),
        "emit": None,
    }


def ssd(
    draw: Draw, batch: int, length: int, heads: int, width: int, states: int, chunk: int = 64
) -> Arguments:
    """Mamba-2: heads of `width` x `states` states, one group."""
    along, pair = (batch, length, heads, width), (batch, length, 1, states)
    return {
        "x": draw(*along),
        "dt": draw(batch, length, heads),
        "A": -draw(heads).abs(),
        "B": draw(*pair),
        "C": draw(*pair),
        "D": draw(heads),
        "z": draw(*along),
        "dt_bias": draw(heads),
        "dt_softplus": True,
        "chunk": chunk,
        "reset": None,
        "initial_state": draw(batch, heads, width, states),
        "emit": None,
    }


def causal_conv(draw: Draw, batch: int, length: int, channels: int, taps: int) -> Arguments:
    """`taps` taps over each of `channels` channels."""
    return {
        "x": draw(batch, length, channels),
        "weight": draw(channels, taps),
        "bias": draw(channels),
        "activation": "silu",
        "reset": None,
        "initial_window": draw(batch, taps - 1, channels),
    }


MAKE: dict[str, Callable[..., Arguments]] = {
    "selective_scan": selective_scan,
    "ssd": ssd,
    "causal_conv": causal_conv,
}


def learned(
    arguments: Arguments, dtype: torch.dtype | None = None, device: Any = None
) -> Arguments:
    """A copy whose floating tensors take gradients; streams in `dtype`, all tensors on `device`."""
    copy = dict(arguments)
    for name, x in arguments.items():
        if isinstance(x, Tensor):
            x = x.detach().to(device or x.device)
            if x.is_floating_point():
                x = x.to((name in STREAMS and dtype) or x.dtype).requires_grad_()
            copy[name] = x
    return copy


def leaves(arguments: Arguments) -> dict[str, Tensor]:
    """The tensors that take a gradient."""
    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
    return {name: x for name, x in tensors.items() if x.requires_grad}
