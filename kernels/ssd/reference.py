"""The plain loop over time; the oracle in any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.sequence import Emit, flat_positions, wide_dtype


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
    """See `worldmodels.kernels.ssd.ssd`; `chunk` means nothing here."""
    dtype, result_dtype = wide_dtype(x), x.dtype
    batch, length, heads, width = x.shape
    x, dt, A, B, C = (tensor.to(dtype) for tensor in (x, dt, A, B, C))
    B, C = (tensor.repeat_interleave(heads // B.shape[2], 2) for tensor in (B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    decay = torch.exp(dt * A)
    if initial_state is None:
        h = x.new_zeros(batch, heads, width, B.shape[-1])
    else:
        h = initial_state.to(dtype)
    outputs, states = [], []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], 0.0, h)
        scaled = dt[:, t, :, None] * x[:, t]
        h = decay[:, t, :, None, None] * h + scaled[..., None] * B[:, t, :, None]
        outputs.append((h * C[:, t, :, None]).sum(-1))
        if emit is not None:
            states.append(h)
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + x * D.to(dtype).reshape(heads, -1)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    emitted = torch.stack(states, 1).flatten(0, 1) if states else None
    if isinstance(emit, Tensor) and emitted is not None:
        emitted = emitted[flat_positions(emit, length)]
    return y.to(result_dtype), h, emitted
