"""The operators over time in one form, for tests that hold for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.causal_conv import causal_conv, windows
from worldmodels.kernels.selective_scan import selective_scan
from worldmodels.kernels.ssd import ssd

Inputs = dict[str, Tensor]


def gradients(results, leaves) -> tuple[Tensor, ...]:
    """Of a fixed random weighting of all results."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for result in results:
        if result is not None:
            weight = torch.randn(result.shape, generator=generator, dtype=torch.float64)
            total = total + (result.double() * weight).sum()
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return tuple(found)


def leaf(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: x.detach().to(dtype).requires_grad_() for name, x in inputs.items()}


def assert_near(found, expected, tolerance: float, names: Any = None) -> None:
    """Largest difference over largest value."""
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b is None:
            assert a is None
            continue
        error = (a.double() - b.double()).abs().max() / (b.double().abs().max() + 1e-6)
        assert error <= tolerance, (names and names[place], float(error))


@dataclass(frozen=True)
class OverTime:
    """An operator, random inputs for it, and which of these have a time axis."""

    name: str
    make: Callable[..., Inputs]
    call: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    timed: tuple[str, ...]

    leaf = staticmethod(leaf)
    gradients = staticmethod(gradients)
    assert_near = staticmethod(assert_near)

    def __call__(self, inputs: Inputs, reset=None, emit=None, **kwargs: Any):
        """y, the last state and the emitted states; `inputs["state"]` is the initial state."""
        return self.call(reset=reset, emit=emit, **inputs, **kwargs)

    def cut(self, inputs: Inputs, steps: slice, state: Tensor | None = None) -> Inputs:
        """The inputs of these steps, with another initial state where given."""
        part = {k: x[:, steps] if k in self.timed else x for k, x in inputs.items()}
        return part if state is None else part | {"state": state}

    def rows(self, inputs: Inputs, rows: Tensor) -> Inputs:
        """The inputs of these batch rows."""
        return {k: x[rows] if k in (*self.timed, "state") else x for k, x in inputs.items()}


def _scan_inputs(batch: int, length: int, draw: Callable[..., Tensor]) -> Inputs:
    width, size = 5, 3
    return {
        "u": draw(batch, length, width),
        "delta": draw(batch, length, width),
        "A": -draw(width, size).abs(),
        "B": draw(batch, length, size),
        "C": draw(batch, length, size),
        "D": draw(width),
        "z": draw(batch, length, width),
        "delta_bias": draw(width),
        "state": draw(batch, width, size),
    }


def _ssd_inputs(
    batch: int,
    length: int,
    draw: Callable[..., Tensor],
    heads: int = 4,
    groups: int = 2,
    timed: bool = False,
    wide_skip: bool = False,
) -> Inputs:
    width, size = 3, 5
    return {
        "x": draw(batch, length, heads, width),
        "dt": draw(batch, length, heads),
        "A": -draw(*(batch, length, heads) if timed else (heads,)).abs(),
        "B": draw(batch, length, groups, size),
        "C": draw(batch, length, groups, size),
        "D": draw(heads, width) if wide_skip else draw(heads),
        "z": draw(batch, length, heads, width),
        "dt_bias": draw(heads),
        "state": draw(batch, heads, width, size),
    }


def _conv_inputs(batch: int, length: int, draw: Callable[..., Tensor], width: int = 4) -> Inputs:
    channels = 5
    return {
        "x": draw(batch, length, channels),
        "weight": draw(channels, width),
        "bias": draw(channels),
        "state": draw(batch, width - 1, channels),
    }


def _call_scan(state, **kwargs):
    return selective_scan(**kwargs, initial_state=state, delta_softplus=True)


def _call_ssd(state, chunk: int = 3, **kwargs):
    return ssd(**kwargs, initial_state=state, dt_softplus=True, chunk=chunk)


def _call_conv(x, weight, bias, state, reset, emit, implementation=None):
    y, last = causal_conv(
        x,
        weight,
        bias,
        "silu",
        reset=reset,
        initial_window=state,
        implementation=implementation,
    )
    if emit is None:
        return y, last, None
    width = weight.shape[1]
    return y, last, windows(x, width, reset=reset, initial_window=state, emit=emit)


OVER_TIME = {
    "selective_scan": OverTime(
        "selective_scan", _scan_inputs, _call_scan, ("u", "delta", "B", "C", "z")
    ),
    "ssd": OverTime("ssd", _ssd_inputs, _call_ssd, ("x", "dt", "B", "C", "z")),
    "causal_conv": OverTime("causal_conv", _conv_inputs, _call_conv, ("x",)),
}


@pytest.fixture(scope="session")
def operators() -> dict[str, OverTime]:
    return OVER_TIME


@pytest.fixture(params=OVER_TIME)
def over_time(request) -> OverTime:
    return OVER_TIME[request.param]


@pytest.fixture(params=["selective_scan", "ssd"])
def scan(request) -> OverTime:
    return OVER_TIME[request.param]


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Normal float64 numbers from a generator of the test's own."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
