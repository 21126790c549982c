"""Linear, block-diagonal linear and RMS-norm layers with DreamerV3's initialisation.

Source: DreamerV3 (arXiv 2301.04104, 2025 form): truncated normal weights with the standard
deviation scale / sqrt(fan_in), zero biases, RMSNorm with 1e-4 inside the root, then SiLU.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.kernels.norm_silu import norm_silu

NORM_EPS = 1e-4
_TRUNCATION = 1.1368
"""1 / (standard deviation of a unit normal truncated at two sigma)."""


def check_sizes(config: Any, **least: int) -> None:
    """Raise ValueError for an option below its least value, as in `check_sizes(config, conv=2)`."""
    for name, bound in least.items():
        value = getattr(config, name)
        if not value >= bound:
            raise ValueError(f"{name} is {value}, below {bound}")


def init_weight(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill `weight` from a normal truncated at two sigma, with std scale / sqrt(fan_in)."""
    if scale == 0.0:
        nn.init.zeros_(weight)
        return
    sigma = _TRUNCATION * scale / math.sqrt(fan_in)
    nn.init.trunc_normal_(weight, std=sigma, a=-2 * sigma, b=2 * sigma)


class Linear(nn.Linear):
    """`nn.Linear` with DreamerV3's initialisation; `scale` 0 makes the output exactly zero."""

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0):
        self.scale = scale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Called by nn.Linear's constructor."""
        init_weight(self.weight, self.in_features, self.scale)
        nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """G independent linear maps side by side: x [..., in] -> [..., out].

    `weight` is [in / G, out]: the columns of block g, out / G of them, act on block g of x. The
    initialisation uses the full fan-in, as the reference implementation does.
    """

    def __init__(self, in_features: int, out_features: int, blocks: int):
        super().__init__()
        if in_features % blocks or out_features % blocks:
            raise ValueError(f"{in_features} -> {out_features} does not divide by {blocks} blocks")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(in_features // blocks, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        init_weight(self.weight, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return block_matmul(x, self.weight, self.blocks) + self.bias


def block_matmul(x: Tensor, weight: Tensor, blocks: int) -> Tensor:
    """x [..., in] times a block-diagonal `weight` [in / G, out] -> [..., out]."""
    lead = x.shape[:-1]
    x = x.reshape(-1, blocks, x.shape[-1] // blocks).transpose(0, 1)  # [G, N, in / G]
    w = weight.view(weight.shape[0], blocks, -1).transpose(0, 1)  # [G, in / G, out / G]
    return torch.bmm(x, w).transpose(0, 1).reshape(*lead, -1)


class NormSiLU(nn.Module):
    """silu(x / sqrt(mean(x^2) + 1e-4) * scale) over the last axis, in float32."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> the same shape and dtype."""
        return norm_silu(x, self.weight, NORM_EPS)


class MLP(nn.Sequential):
    """`layers` times Linear -> NormSiLU: [..., in] -> [..., units]."""

    def __init__(self, in_features: int, units: int, layers: int):
        sizes = [in_features] + [units] * layers
        parts = []
        for size in sizes[:-1]:
            parts += [Linear(size, units), NormSiLU(units)]
        super().__init__(*parts)
