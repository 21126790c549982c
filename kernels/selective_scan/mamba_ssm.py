"""The scan of the library mamba-ssm (CUDA), to compare with; it does less than the others."""

from torch import Tensor

from worldmodels.kernels import libraries
from worldmodels.kernels.sequence import Emit

_FUNCTION = (
    "mamba_ssm.ops.selective_scan_interface",
    "selective_scan_fn",
    "'worldmodels-rl[mamba-ssm]'",
)
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
    given = {"reset": reset, "initial_state": initial_state, "emit": emit}
    reasons = [f"takes no {name}" for name, x in given.items() if x is not None]
    if A.shape[1] > _MOST_STATES:
        reasons.append(f"has at most {_MOST_STATES} states a channel")
    libraries.refuse("selective_scan", "mamba_ssm", u, reasons)
    scan = libraries.function("selective_scan", *_FUNCTION)
    y, last = scan(
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
