"""The state-space dual form on a GPU.

A sequence goes in chunks, as matrix products on tensor cores (`triton_chunks`); one step alone, and
the states that were asked for, step by step in exact float32 (`triton_steps`, `triton_emission`).
`triton_common` has the maths. The discretisation, of size [B, T, H], is left to torch, and so are
sums over heads and over what different programs hold: no atomics, so that two runs agree bit for
bit.
"""

import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.launch import DTYPES
from worldmodels.kernels.sequence import Emit, requests
from worldmodels.kernels.ssd.triton_chunks import chunk_length, chunks
from worldmodels.kernels.ssd.triton_emission import emission
from worldmodels.kernels.ssd.triton_steps import step


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
    """See `worldmodels.kernels.ssd.ssd`."""
    if x.dtype not in DTYPES:
        raise ValueError(
            f'ssd: the Triton kernels take no {x.dtype}; choose implementation="eager"'
        )
    batch, length, heads, width = x.shape
    d = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    if dt_softplus:
        d = F.softplus(d)
    decay = d * A.float()
    reset = None if reset is None else reset.contiguous()
    if D is not None:
        D = D.float().reshape(heads, -1).expand(heads, width).contiguous()
    z = None if z is None else z.contiguous()
    initial = None if initial_state is None else initial_state.float().contiguous()
    x, d, decay, B, C = (tensor.contiguous() for tensor in (x, d, decay, B, C))

    if length == 1 and not isinstance(emit, Tensor):
        y, last = step(x, d, decay, B, C, D, z, reset, initial)
        return y, last, None if emit is None else last
    chunk = chunk_length(x, chunk)
    y, last, before = chunks(x, d, decay, B, C, D, z, reset, initial, chunk)
    if emit is None:
        return y, last, None
    order, offsets = requests(emit, batch, length, x.device)
    return y, last, emission(x, d, decay, B, reset, before, order, offsets, chunk)
