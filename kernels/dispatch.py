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

OPERATORS = ("max_pool", "norm_silu", "sigmoid_error")
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
def load(operator: str) -> Callable[..., Any]:
    """The function `operator` of the chosen implementation's module."""
    module = f"worldmodels.kernels.{operator}.{choose(operator).implementation}"
    return getattr(import_module(module), operator)
