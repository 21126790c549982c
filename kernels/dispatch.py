"""Which implementation of an operator runs, and why.

`WORLDMODELS_KERNEL=reference|eager` overrides the choice for every operator; it is read once, at
the first use.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

OPERATORS = (
    "causal_conv",
    "max_pool",
    "norm_silu",
    "selective_scan",
    "sigmoid_error",
    "ssd",
)
IMPLEMENTATIONS = ("reference", "eager")
VARIABLE = "WORLDMODELS_KERNEL"


@dataclass(frozen=True)
class Choice:
    """The implementation that runs and the reason, as `doctor` and a run's start print them."""

    operator: str
    implementation: str
    reason: str


def choose(operator: str) -> Choice:
    """The implementation of `operator`; raises ValueError for an unknown override."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return Choice(operator, "eager", "default: torch with a hand-written backward")
    if wanted not in IMPLEMENTATIONS:
        raise ValueError(f"{VARIABLE} is one of {', '.join(IMPLEMENTATIONS)}, not '{wanted}'")
    return Choice(operator, wanted, f"{VARIABLE}={wanted}")


@cache
def load(operator: str, implementation: str | None = None) -> Callable[..., Any]:
    """The function `operator` of the module of `implementation`, or of the one chosen."""
    if implementation is None:
        implementation = choose(operator).implementation
    elif implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"{operator}: implementation is one of {known}, not '{implementation}'")
    module = f"worldmodels.kernels.{operator}.{implementation}"
    return getattr(import_module(module), operator)
