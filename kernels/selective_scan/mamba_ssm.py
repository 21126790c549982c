"""The scan of the library mamba-ssm (CUDA), to compare with; it does less than the others."""

from importlib import import_module
from typing import Any

from torch import Tensor

from worldmodels.kernels.launch import DTYPES
from worldmodels.kernels.sequence import Emit

_MOST_STATES = 256


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.selective_scan.selective_scan`. Here the last state is detached.

    The library has no gradient for that state; delta, B, C and z take the dtype of u. Raises
    ValueError for what the library cannot do and ImportError where it is missing.
    """
    _refuse(u, A, {"reset": reset, "initial_state": initial_state, "emit": emit})
    y, last = _library()(
        u.mT,
        delta.to(u.dtype).mT,
        A.float(),
        B.to(u.dtype).mT,
        C.to(u.dtype).mT,
        D=None if D is None else D.float(),
        z=None if z is None else z.to(u.dtype).mT,
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    return y.mT, last.detach(), None


def _refuse(u: Tensor, A: Tensor, unknown: dict[str, Emit]) -> None:
    """Raise ValueError for what the library cannot do."""
    reasons = [f"takes no {name}" for name, x in unknown.items() if x is not None]
    if A.shape[1] > _MOST_STATES:
        reasons.append(f"has at most {_MOST_STATES} states a channel")
    if u.dtype not in DTYPES:
        reasons.append(f"takes no {u.dtype}")
    if not u.is_cuda:
        reasons.append("runs on CUDA alone")
    if reasons:
        listed = " and ".join(reasons)
        raise ValueError(f"selective_scan: mamba_ssm {listed}; choose another implementation")


def _library() -> Any:
    try:
        return import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError as error:
        raise ImportError(
            f"selective_scan: mamba_ssm cannot be imported ({error}); "
            "run pip install 'worldmodels-rl[mamba-ssm]'"
        ) from error
