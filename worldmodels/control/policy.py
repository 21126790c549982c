"""The tanh-Gaussian policy of SAC (Haarnoja et al. 2018, arXiv 1812.05905, appendix C).

Letters: B rows, F feature width, A action size.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.control.stacked import full

LOG_STD = (-5.0, 2.0)
"""Bounds of the logarithm of the deviation, as in the code of EDAC and RAVL."""


class TanhGaussian:
    """tanh of a diagonal Gaussian, A wide."""

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std

    def mode(self) -> Tensor:
        """The Gaussian's mean, squashed: [B, A]."""
        return self.mean.tanh()

    def sample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Action [B, A] in [-1, 1] and its log density [B], with the gradient of both.

        log pi(a) = sum_i log N(u_i) - log(1 - tanh(u_i)^2) with a = tanh(u); the last term is
        2 (log 2 - u - softplus(-2 u)), which is exact where tanh rounds to 1.
        """
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        u = self.mean + self.log_std.exp() * noise
        normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        stretch = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return u.tanh(), (normal - stretch).sum(-1)


class Policy(nn.Module):
    """`layers` hidden ReLU layers of `units`; outputs near zero at first, biases of 0.1 within."""

    def __init__(self, feature: int, action: int, units: int, layers: int):
        super().__init__()
        widths = [feature, *[units] * layers]
        hidden = [nn.Linear(*pair) for pair in pairwise(widths)]
        for layer in hidden:
            nn.init.constant_(layer.bias, 0.1)
        self.hidden = nn.ModuleList(hidden)
        self.output = nn.Linear(units, 2 * action)
        for parameter in self.output.parameters():
            nn.init.uniform_(parameter, -1e-3, 1e-3)

    def forward(self, feature: Tensor) -> TanhGaussian:
        """feature [B, F] -> the distribution of actions."""
        for layer in self.hidden:
            feature = layer(feature).relu()
        mean, log_std = full(self.output(feature)).chunk(2, -1)
        return TanhGaussian(mean, log_std.clamp(*LOG_STD))
