"""What the adapters to other libraries share: what they refuse, and how they find the library."""

from importlib import import_module
from typing import Any

from torch import Tensor

from worldmodels.kernels.launch import DTYPES


def refuse(operator: str, library: str, x: Tensor, reasons: list[str]) -> None:
    """Raise ValueError where there are `reasons`, or x is nothing that any library takes."""
    if x.dtype not in DTYPES:
        reasons = [*reasons, f"takes no {x.dtype}"]
    if not x.is_cuda:
        reasons = [*reasons, "runs on CUDA alone"]
    if reasons:
        listed = " and ".join(reasons)
        raise ValueError(f"{operator}: {library} {listed}; choose another implementation")


def function(operator: str, module: str, name: str, install: str) -> Any:
    """The function `name` of a library's `module`; raises ImportError where it is missing."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{operator}: {module.split('.')[0]} cannot be imported ({error}); "
            f"run pip install {install}"
        ) from error
