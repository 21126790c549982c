"""The plain loop over time; the oracle in any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.sequence import Emit, flat_positions, wide_dtype


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
    """See `worldmodels.kernels.selective_scan.selective_scan`."""
    dtype, result_dtype = wide_dtype(u), u.dtype
    u, delta, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    h = u.new_zeros(u.shape[0], *A.shape) if initial_state is None else initial_state.to(dtype)
    outputs, states = [], []
    for t in range(u.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None, None], 0.0, h)
        decay = torch.exp(delta[:, t, :, None] * A)
        h = decay * h + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
        if emit is not None:
            states.append(h)
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + u * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    emitted = torch.stack(states, 1).flatten(0, 1) if states else None
    if isinstance(emit, Tensor) and emitted is not None:
        emitted = emitted[flat_positions(emit, u.shape[1])]
    return y.to(result_dtype), h, emitted
