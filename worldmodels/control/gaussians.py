"""The networks of a dynamics ensemble: y ~ N(mu_i(x), sigma_i(x)^2), learned by likelihood.

Sources: PETS (Chua et al. 2018, arXiv 1805.12114, appendix A.1) for the soft clamp of the
log-variance; sizes, initialisation and decay as in the code of RAVL. Letters: N members, B rows,
I inputs, O outputs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.control.stacked import StackedMLP

DECAYS = (0.25, 0.5, 0.75)
"""Weight decay of the hidden layers as shares of the output layer's; the last one repeats."""


class GaussianEnsemble(nn.Module):
    """N networks of `layers` hidden SiLU layers; inputs are standardised by the caller."""

    def __init__(self, members: int, inputs: int, outputs: int, units: int, layers: int):
        super().__init__()
        self.mlp = StackedMLP(members, inputs, 2 * outputs, units, layers, F.silu)
        for layer in self.mlp.linears:
            deviation = 1 / (2 * math.sqrt(layer.weight.shape[1]))
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        self.max_log_variance = nn.Parameter(torch.full((members, 1, outputs), 0.5))
        self.min_log_variance = nn.Parameter(torch.full((members, 1, outputs), -10.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, I] or [N, B, I] -> mean and log-variance, [N, B, O] each."""
        mean, raw = self.mlp(x).chunk(2, -1)
        high = self.max_log_variance - F.softplus(self.max_log_variance - raw)
        return mean, self.min_log_variance + F.softplus(high - self.min_log_variance)

    def bounds(self) -> Tensor:
        """[N]: the sum of each member's upper bounds less that of its lower ones."""
        return (self.max_log_variance - self.min_log_variance).sum((1, 2))

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Weights with a decay by layer; biases and bounds without."""
        layers = self.mlp.linears
        shares = [DECAYS[min(i, len(DECAYS) - 1)] for i in range(len(layers) - 1)] + [1.0]
        free = [self.max_log_variance, self.min_log_variance, *(layer.bias for layer in layers)]
        return [{"params": free, "lr": learning_rate}] + [
            {"params": [layer.weight], "lr": learning_rate, "weight_decay": share * weight_decay}
            for layer, share in zip(layers, shares, strict=True)
        ]


def negative_log_likelihood(
    mean: Tensor, log_variance: Tensor, target: Tensor, weight: Tensor | float = 1.0
) -> Tensor:
    """Mean over outputs of w (lv + (y - mu)^2 exp(-lv)): [N, B]; a constant and a factor 2 are left
    out. `weight` is one for every output, or [B, O]."""
    return (weight * (log_variance + (target - mean).square() * (-log_variance).exp())).mean(-1)
