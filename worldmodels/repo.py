"""RePo: latents that foretell rewards under a bound on the KL; decoder and critics only look on.

Source: Zhu et al. 2023 (arXiv 2309.00082) and its released code. Letters: B sequences, T rows.
"""

import math

import torch
from torch import Tensor, nn

FIRST = 1e-5
"""The multiplier at first: nearly pure reward prediction."""
PRIOR_SHARE = 5 / 6
"""Share of the KL that moves the prior; the rest moves the posterior."""


class KLConstraint(nn.Module):
    """max E log q(r | z) with E KL(posterior || prior) <= target, by dual ascent on log beta.

    The latents' loss is beta (KL - target), balanced 5 : 1 between prior and posterior; the
    multiplier's is -log(beta) (mean KL - target), by which beta rises while the KL is too large.
    """

    def __init__(self, target: float):
        super().__init__()
        self.target = target
        self.log_beta = nn.Parameter(torch.tensor(math.log(FIRST)))

    def forward(self, dyn: Tensor, rep: Tensor) -> dict[str, Tensor]:
        """The two sides of the KL [B, T] -> losses `dyn` and `rep` [B, T] and `multiplier` [], and
        the `kl` itself [B, T], to be logged."""
        beta = self.log_beta.detach().exp()
        excess = dyn.detach().mean() - self.target
        return {
            "dyn": PRIOR_SHARE * beta * dyn,
            "rep": (1 - PRIOR_SHARE) * beta * rep,
            "multiplier": -self.log_beta * excess,
            "kl": dyn.detach(),
        }
