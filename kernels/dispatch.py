"""Which implementation of an operator runs, and why.

On a GPU the Triton kernels run, once a small case of theirs agrees with the reference; elsewhere
`eager` does. `prefer` (the option `kernel` of a run) overrides that for every operator that has the
implementation, and `WORLDMODELS_KERNEL=reference|eager|triton|mamba_ssm` overrides both. The
choice is made once for each kind of device and dtype, at the first use.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels import self_test
from worldmodels.kernels.launch import interpreting

OVER_TIME = ("causal_conv", "selective_scan", "ssd")
OPERATORS = (*OVER_TIME, "max_pool", "norm_silu", "sigmoid_error")
IMPLEMENTATIONS = ("reference", "eager", "triton", "mamba_ssm")
VARIABLE = "WORLDMODELS_KERNEL"

_preferred = ""
_functions: dict[tuple[str, str], Callable[..., Any]] = {}


@dataclass(frozen=True)
class Choice:
    """The implementation that runs and the reason, as `doctor` and a run's start print them."""

    operator: str
    implementation: str
    reason: str


def prefer(implementation: str) -> None:
    """Ask for an implementation in this process, or, with "auto", for the defaults.

    Raises ValueError for an unknown one.
    """
    global _preferred
    if implementation not in (*IMPLEMENTATIONS, "auto"):
        raise ValueError(f"kernel is auto or {_listed()}, not '{implementation}'")
    _preferred = "" if implementation == "auto" else implementation
    forget()


def forget() -> None:
    """Make every choice afresh at its next use."""
    choose.cache_clear()
    _functions.clear()


def implementations(operator: str) -> tuple[str, ...]:
    """Those that `operator` has."""
    return IMPLEMENTATIONS if operator in OVER_TIME else IMPLEMENTATIONS[:2]


@cache
def choose(operator: str, device: str) -> Choice:
    """The implementation of `operator` on a kind of device: cpu, cuda, ...

    A Triton kernel that disagrees with the reference is not chosen, and a warning says so. Raises
    ValueError for an override that is unknown or cannot run.
    """
    wanted, reason = os.environ.get(VARIABLE, ""), f"{VARIABLE}={os.environ.get(VARIABLE)}"
    if not wanted and _preferred:
        wanted, reason = _preferred, f"kernel={_preferred}"
    if wanted and wanted not in IMPLEMENTATIONS:
        raise ValueError(f"{VARIABLE} is one of {_listed()}, not '{wanted}'")
    if not wanted:
        wanted, reason = "eager", "default: torch with a hand-written backward"
        if device == "cuda" and operator in OVER_TIME:
            wanted, reason = "triton", "default on a GPU"
    elif wanted not in implementations(operator):
        return Choice(operator, "eager", f"{reason}, which this operator does not have")
    _check_place(operator, wanted, device, reason)
    if wanted == "triton":
        fault = _fault(operator, device)
        if fault is not None:
            warnings.warn(f"{operator}: eager runs in place of triton, {fault}", stacklevel=2)
            return Choice(operator, "eager", f"triton was turned down: {fault}")
        reason += "; agrees with the reference"
    return Choice(operator, wanted, reason)


def _check_place(operator: str, implementation: str, device: str, reason: str) -> None:
    """Raise ValueError where an implementation cannot run at all."""
    library = "causal_conv1d" if operator == "causal_conv" else "mamba_ssm"
    if implementation == "mamba_ssm" and find_spec(library) is None:
        raise ValueError(f"{reason}: run pip install 'worldmodels-rl[mamba-ssm]' first")
    runs = device == "cuda" or (implementation == "triton" and interpreting())
    if implementation in ("triton", "mamba_ssm") and not runs:
        raise ValueError(f"{reason} needs a CUDA GPU, and this runs on {device}; choose eager")


def _fault(operator: str, device: str) -> str | None:
    """What keeps the Triton kernel from being chosen."""
    try:
        function = _function(operator, "triton")
    except ImportError as error:
        return f"it cannot be imported ({error})"
    return self_test.fault(operator, function, device)


def load(operator: str, x: Tensor, implementation: str | None = None) -> Callable[..., Any]:
    """The function `operator` of `implementation`, or of the one chosen for the device of `x`.

    Raises ValueError for an implementation that `operator` does not have.
    """
    name = _settled(operator, implementation, x.device.type, x.dtype)
    return _functions[operator, name]


@torch.compiler.assume_constant_result  # settled before a graph is traced, whatever it takes
def _settled(operator: str, implementation: str | None, device: str, dtype: torch.dtype) -> str:
    """The name of the implementation that runs, whose function is then in `_functions`."""
    if implementation is None:
        implementation = choose(operator, device).implementation
        if dtype == torch.float64 and implementation in ("triton", "mamba_ssm"):
            implementation = "eager"  # kernels calculate in float32
    elif implementation not in implementations(operator):
        known = ", ".join(implementations(operator))
        raise ValueError(f"{operator}: implementation is one of {known}, not '{implementation}'")
    _function(operator, implementation)
    return implementation


def _function(operator: str, implementation: str) -> Callable[..., Any]:
    key = operator, implementation
    if key not in _functions:
        module = import_module(f"worldmodels.kernels.{operator}.{implementation}")
        _functions[key] = getattr(module, operator)
    return _functions[key]


def _listed() -> str:
    return ", ".join(IMPLEMENTATIONS)
