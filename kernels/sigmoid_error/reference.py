"""The formula as it stands; the oracle in any dtype."""

import torch
from torch import Tensor


def sigmoid_error(logits: Tensor, target: Tensor) -> Tensor:
    """See `worldmodels.kernels.sigmoid_error.sigmoid_error`."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (torch.sigmoid(wide) - target.to(wide.dtype) / 255).square().flatten(1).sum(1)
