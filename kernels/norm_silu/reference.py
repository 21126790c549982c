"""The formula as it stands; the oracle in any dtype."""

import torch
from torch import Tensor


def norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `worldmodels.kernels.norm_silu.norm_silu`."""
    wide = x if x.dtype == torch.float64 else x.float()
    scaled = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return (scaled * torch.sigmoid(scaled)).to(x.dtype)
