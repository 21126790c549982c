"""Randomised priors: frozen random functions by which members differ where no data are.

Source: Osband et al. 2018 (arXiv 1806.03335). Letters: V members, F feature width.
"""

import torch
from torch import Tensor, nn

from worldmodels.values.ensemble import Ensemble, draw_biases


class Priors(nn.Module):
    """beta p_i(z): over the first batch learned p_i has mean 0, deviation 1; beta = share x span.

    The span of returns grows as values do, and a fixed beta would lose its effect; but every
    change of beta shifts all targets, so that it follows only when it has doubled. With
    share 0 there are no networks, and the priors are exactly zero.
    """

    def __init__(self, count: int, in_features: int, units: int, layers: int, share: float):
        super().__init__()
        self.share, self.count = share, count
        self.span: Tensor
        self.shift: Tensor
        self.deviation: Tensor
        self.seen: Tensor
        if share:
            networks = Ensemble(count, in_features, units, layers, 1, scale=1.0)
            draw_biases(networks)
            self.networks = networks.requires_grad_(False)
            self.register_buffer("span", torch.ones(()))
            self.register_buffer("shift", torch.zeros(count))
            self.register_buffer("deviation", torch.ones(count))
            self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, feature: Tensor, twice: bool = False, learns: bool = False) -> Tensor:
        """feature [..., F] -> [V, ...] float32; only a batch that is learned settles anything."""
        if not self.share:
            return feature.new_zeros((), dtype=torch.float32).expand(
                self.count, *feature.shape[:-1]
            )
        raw = self.networks(feature, twice).squeeze(-1).float()
        if learns:
            self._standardise(raw.detach())
        shape = (-1,) + (1,) * (raw.dim() - 1)
        return self.share * self.span * (raw - self.shift.view(shape)) / self.deviation.view(shape)

    @torch.no_grad()
    def keep_pace(self, span: Tensor) -> None:
        """`span`: the running range of returns and 0, a 0-d tensor of at least 1."""
        if self.share:
            self.span.copy_(torch.where(span >= 2 * self.span, span, self.span))

    @torch.no_grad()
    def _standardise(self, raw: Tensor) -> None:
        """The first batch settles shift and deviation; static shapes, no value read back."""
        flat = raw.flatten(1)
        self.shift.copy_(torch.where(self.seen, self.shift, flat.mean(1)))
        spread = flat.std(1, correction=0).clamp(min=1e-3)
        self.deviation.copy_(torch.where(self.seen, self.deviation, spread))
        self.seen.fill_(True)
