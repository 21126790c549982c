"""The state-space dual form of the library mamba-ssm (Triton), to compare with."""

from math import inf

import torch
from torch import Tensor

from worldmodels.kernels import libraries
from worldmodels.kernels.sequence import Emit, segments

_FUNCTION = (
    "mamba_ssm.ops.triton.ssd_combined",
    "mamba_chunk_scan_combined",
    "'worldmodels-rl[mamba-ssm]'",
)
_SHORTEST = 16
"""Steps of a chunk: a matrix product of the kernels has no fewer."""


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk: int,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.ssd.ssd`. B, C and z take the dtype of x.

    The library sees resets as the numbers of packed sequences. Raises ValueError for what it
    cannot do and ImportError where it is missing.
    """
    reasons = [] if emit is None else ["takes no emit"]
    if A.ndim > 1:
        reasons.append("takes no A with a time axis")
    if chunk < _SHORTEST or chunk & (chunk - 1):
        reasons.append(f"takes no chunk but powers of two from {_SHORTEST}")
    libraries.refuse("ssd", "mamba_ssm", x, reasons)
    scan = libraries.function("ssd", *_FUNCTION)
    y, last = scan(
        x,
        dt,
        A.float(),
        B.to(x.dtype),
        C.to(x.dtype),
        chunk,
        D=None if D is None else D.float(),
        z=None if z is None else z.to(x.dtype),
        dt_bias=None if dt_bias is None else dt_bias.float(),
        initial_states=None if initial_state is None else initial_state.float(),
        seq_idx=None if reset is None else segments(reset).to(torch.int32),
        dt_softplus=dt_softplus,
        dt_limit=(-inf, inf),  # its default makes a negative dt zero
        return_final_states=True,
    )
    return y, last, None
