"""silu(rms_norm(x) * weight) over the last axis."""

from torch import Tensor

from worldmodels.kernels.dispatch import load


def norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D], weight [D] -> silu(x / sqrt(mean(x^2) + eps) * weight), computed in float32.

    A weight [V, 1, D] belongs to x [V, N, D]: one for each of V groups of rows. The
    result has the dtype of x. Source: RMSNorm, Zhang and Sennrich 2019 (arXiv 1910.07467).
    """
    return load("norm_silu", x)(x, weight, eps)
