"""A small case on which a kernel must agree with the reference before it is chosen.

It has what makes these kernels ours: resets, an initial state, emitted states, a ragged length, and
gradients of all of them.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.arguments import MAKE, Arguments, learned, leaves
from worldmodels.kernels.sequence import no_autocast

BATCH, LENGTH = 2, 21
SIZES = {
    "selective_scan": {"channels": 24, "states": 16},
    "ssd": {"heads": 2, "width": 16, "states": 16, "chunk": 16},
    "causal_conv": {"channels": 24, "taps": 4},
}
TOLERANCE = 1e-3
"""Largest difference over largest value; products may round their inputs to 10 bits."""


def fault(operator: str, function: Callable[..., Any], device: str) -> str | None:
    """What is wrong with `function` on this kind of device, in a phrase, or None.

    `function` is called as an implementation of `operator` is.
    """
    reference = getattr(import_module(f"worldmodels.kernels.{operator}.reference"), operator)
    arguments = draw_arguments(operator)
    wide = {k: x.double() if _floating(x) else x for k, x in arguments.items()}
    expected = _results(reference, learned(wide, torch.float64))
    try:
        found = _results(function, learned(arguments, torch.float32, device))
    except Exception as error:  # whatever a driver or a compiler may raise
        return f"it raised {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    for name, wanted in expected.items():
        scale = wanted.abs().max() + 1e-6
        difference = float((found[name].cpu().double() - wanted).abs().max() / scale)
        if not difference <= TOLERANCE:  # so written that NaN fails too
            return f"{name} differs from the reference by {difference:.1e} of its largest value"
    return None


def draw_arguments(operator: str) -> Arguments:
    """The case, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    arguments = MAKE[operator](draw, BATCH, LENGTH, **SIZES[operator])
    reset = torch.rand(BATCH, LENGTH, generator=generator) < 0.15
    reset[0, 0], reset[1, LENGTH // 2] = True, True
    reset[1, :4] = False  # the initial state is seen
    arguments["reset"] = reset
    if "emit" in arguments:
        row = torch.randint(BATCH, (6,), generator=generator)
        step = torch.randint(LENGTH, (6,), generator=generator)
        arguments["emit"] = torch.stack([row, step], 1)[[0, 1, 2, 3, 4, 5, 0]]  # one of them twice
    return arguments


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _results(function: Callable[..., Any], arguments: Arguments) -> dict[str, Tensor]:
    """Every output and every gradient of a fixed random weighting of the outputs."""
    inputs = leaves(arguments)
    with torch.enable_grad(), no_autocast(next(iter(inputs.values()))):
        outputs = [x for x in function(**arguments) if x is not None]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
        gradients = torch.autograd.grad(outputs, list(inputs.values()), weights)
    results = {f"result {place}": x.detach() for place, x in enumerate(outputs)}
    return results | {f"the gradient of {k}": x for k, x in zip(inputs, gradients, strict=True)}
