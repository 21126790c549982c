"""The state-space dual form of the library mamba-ssm (Triton), to compare with."""

from importlib import import_module
from math import inf
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.launch import DTYPES
from worldmodels.kernels.sequence import Emit, segments

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
    _refuse(x, A, chunk, emit)
    y, last = _library()(
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


def _refuse(x: Tensor, A: Tensor, chunk: int, emit: Emit) -> None:
    """Raise ValueError for what the library cannot do."""
    reasons = []
    if emit is not None:
        reasons.append("takes no emit")
    if A.ndim > 1:
        reasons.append("takes no A with a time axis")
    if chunk < _SHORTEST or chunk & (chunk - 1):
        reasons.append(f"takes no chunk but powers of two from {_SHORTEST}")
    if x.dtype not in DTYPES:
        reasons.append(f"takes no {x.dtype}")
    if not x.is_cuda:
        reasons.append("runs on CUDA alone")
    if reasons:
        listed = " and ".join(reasons)
        raise ValueError(f"ssd: mamba_ssm {listed}; choose another implementation")


def _library() -> Any:
    try:
        return import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    except ImportError as error:
        raise ImportError(
            f"ssd: mamba_ssm cannot be imported ({error}); "
            "run pip install 'worldmodels-rl[mamba-ssm]'"
        ) from error
