"""Mean and deviation of all rows seen so far, column by column."""

import torch
from torch import Tensor, nn

from worldmodels.kernels.sequence import no_autocast

LEAST = 1e-6
"""A column that varies less than this share of max(1, |mean|) is constant in float32: it is only
shifted."""


class Standardiser(nn.Module):
    """(x - mean) / deviation over every row given to `observe` (Chan et al. 1979, pairwise)."""

    def __init__(self, columns: int):
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("variance", torch.ones(columns))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, x: Tensor, weight: Tensor) -> None:
        """x [B, columns]; rows whose weight [B] is 0 do not count, those of weight 1 do."""
        added = weight.sum()
        share = weight / added.clamp(min=1)
        with no_autocast(x):
            mean = share @ x
            variance = share @ (x - mean).square()
        seen = self.count + added
        new, old = added / seen.clamp(min=1), self.count / seen.clamp(min=1)
        change = mean - self.mean
        spread = old * self.variance + new * variance + old * new * change.square()
        self.variance.copy_(torch.where(seen > 0, spread, self.variance))
        self.mean += new * change
        self.count += added.long()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., columns], or the leading ones of them, standardised."""
        columns = x.shape[-1]
        mean, deviation = self.mean[:columns], self.variance[:columns].sqrt()
        constant = deviation < LEAST * mean.abs().clamp(min=1)
        return (x - mean) / torch.where(constant, 1.0, deviation)
