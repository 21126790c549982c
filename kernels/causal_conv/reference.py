"""The plain loop over time; the oracle in any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels.sequence import wide_dtype


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reset: Tensor | None,
    initial_window: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `worldmodels.kernels.causal_conv.causal_conv`."""
    dtype, result_dtype = wide_dtype(x), x.dtype
    x, weight = x.to(dtype), weight.to(dtype)
    batch, length, channels = x.shape
    if initial_window is None:
        window = x.new_zeros(batch, weight.shape[1] - 1, channels)
    else:
        window = initial_window.to(dtype)
    outputs = []
    for t in range(length):
        if reset is not None:
            window = torch.where(reset[:, t, None, None], 0.0, window)
        seen = torch.cat([window, x[:, t, None]], 1)
        outputs.append((seen * weight.T).sum(1))
        window = seen[:, 1:]
    y = torch.stack(outputs, 1)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(result_dtype), window
