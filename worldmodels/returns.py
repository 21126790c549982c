"""Lambda-returns and the percentile normaliser of returns (DreamerV3, arXiv 2301.04104)."""

import torch
from torch import Tensor, nn


def lambda_returns(
    reward: Tensor, cont: Tensor, value: Tensor, discount: float | Tensor, lam: float | Tensor
) -> Tensor:
    """R_i = reward_i + discount cont_i ((1 - lam) value_{i+1} + lam R_{i+1}), R_L = value_L.

    reward, cont [B, L] belong to the state reached after step i; value [B, L+1] to the states
    before each step and after the last. `lam` is a number or [B, L]. Returns [B, L] in float32.
    """
    reward, value = reward.float(), value.float()
    keep = discount * cont.float()
    base = reward + keep * (1 - lam) * value[:, 1:]
    carried = keep * lam
    last, returns = value[:, -1], []
    for i in reversed(range(reward.shape[1])):
        last = base[:, i] + carried[:, i] * last
        returns.append(last)
    return torch.stack(returns[::-1], 1)


class ReturnNormalizer(nn.Module):
    """Running range between two percentiles of the returns, never below `limit`.

    Both averages start at 0 and are not debiased: after one update with the range R the scale is
    max(limit, (1 - decay) R).
    """

    def __init__(
        self, decay: float = 0.99, low: float = 0.05, high: float = 0.95, limit: float = 1.0
    ):
        super().__init__()
        self.quantiles: Tensor
        self.range: Tensor
        self.decay, self.limit = decay, limit
        self.register_buffer("quantiles", torch.tensor([low, high]), persistent=False)
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Move the averages towards the percentiles of all values in `returns` (any shape)."""
        ordered = returns.flatten().float().sort().values  # torch.quantile refuses > 2**24 values
        place = self.quantiles * (ordered.numel() - 1)
        below = place.floor().long()
        above = (below + 1).clamp(max=ordered.numel() - 1)
        found = torch.lerp(ordered[below], ordered[above], place - below)
        self.range.lerp_(found, 1 - self.decay)

    @property
    def offset(self) -> Tensor:
        """The low percentile's average, a scalar."""
        return self.range[0]

    @property
    def scale(self) -> Tensor:
        """max(limit, high - low), a scalar."""
        return (self.range[1] - self.range[0]).clamp(min=self.limit)

    @property
    def span(self) -> Tensor:
        """max(limit, range of the percentiles and 0), a scalar: how large a value is at most.

        Where all returns are alike, their range says nothing about their size.
        """
        return (self.range[1].clamp(min=0) - self.range[0].clamp(max=0)).clamp(min=self.limit)
