"""The built-in value learner: V two-hot critics, their slow copies, priors, and pessimism.

Sources: DreamerV3 (arXiv 2301.04104) for one critic; RAVL (Sims et al. 2024, arXiv 2402.12527) for
the minimum over an ensemble with one shared target; randomised priors (Osband et al. 2018,
arXiv 1806.03335). The reach penalty is our own. Letters: N sequences, T states, F feature width,
V critics, K bins, M starts, L imagined steps.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from worldmodels.config import ActorCriticConfig
from worldmodels.distributions import TwoHot, default_bins
from worldmodels.values.base import Estimate, ValueLearner
from worldmodels.values.configs import ValuesConfig
from worldmodels.values.diversity import diversity
from worldmodels.values.ensemble import Ensemble
from worldmodels.values.novelty import make_novelty
from worldmodels.values.prior import Priors
from worldmodels.values.reducers import reduce_members


class Critics(ValueLearner):
    """v_i(z) = E[two-hot_i(z)] + beta prior_i(z), reduced to one value; one target for all.

    With one critic and no extras it is DreamerV3's critic, to which `plain` sets it.
    """

    def __init__(
        self,
        values: ValuesConfig,
        options: ActorCriticConfig,
        feature_size: int,
        discount: float,
    ):
        if values.kind == "plain":
            values = replace(values, kind="ravl", critics=1, prior_scale=0.0, reach_penalty=0.0)
        super().__init__(values, options, feature_size, discount)
        bins = default_bins().shape[0]
        sizes = (feature_size, options.units, options.layers)
        self.critics = Ensemble(values.critics, *sizes, bins, scale=0.0)
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.priors = Priors(values.critics, *sizes, values.prior_scale)
        penalised = values.reach_penalty > 0
        self.novelty = make_novelty(values, feature_size, options.units) if penalised else None

    def forward(self, feature: Tensor) -> "CriticsEstimate":
        """feature [N, T, F], attached or not -> its values.

        Losses are summed over the critics, yet an attached feature learns from their mean: it is
        shaped by V critics as much as by one.
        """
        return CriticsEstimate(self, torch.lerp(feature.detach(), feature, 1 / self.config.critics))

    def bootstrap(self, estimate: Estimate, feature: Tensor, span: Tensor) -> Tensor:
        """The last value less `reach_penalty` x span x novelty (0 to 1) of its state.

        The novelty is against all critic inputs so far, those of this rollout included.
        """
        if self.novelty is None:
            return estimate.value
        self.novelty.observe(feature[:, :-1])
        penalty = self.config.reach_penalty * span * self.novelty(feature[:, -1])
        return torch.cat([estimate.value[:, :-1], (estimate.value[:, -1] - penalty)[:, None]], 1)

    def losses(self, estimate: Estimate, feature: Tensor, span: Tensor) -> dict[str, Tensor]:
        """`diversity` of the members where they are only bootstrapped from, and `novelty`."""
        losses = {}
        if self.config.diversity != "none":
            losses["diversity"] = diversity(self, feature[:, -1], span)
        if self.novelty is not None and self.novelty.learns:
            losses["novelty"] = self.novelty.loss(feature[:, :-1])
        return losses

    def weights(self) -> dict[str, float]:
        """Weight of every loss in `losses`."""
        weights = {}
        if self.config.diversity != "none":
            weights["diversity"] = self.config.diversity_weight
        if self.novelty is not None and self.novelty.learns:
            weights["novelty"] = 1.0
        return weights

    @torch.no_grad()
    def after_update(self, span: Tensor) -> None:
        """The slow copies follow, the priors keep pace with the span of returns."""
        torch._foreach_lerp_(
            list(self.slow.parameters()), list(self.critics.parameters()), self.options.slow_rate
        )
        self.priors.keep_pace(span)

    def soft_members(self, feature: Tensor, span: Tensor, twice: bool = False) -> Tensor:
        """feature [..., F] -> every critic's value in spans, prior included [V, ...], attached.

        What diversity acts on: the expectation over the bins within one span. The others reach to
        4.9e8, and a millionth of probability there would be the cheapest way to differ.
        """
        logits = self.critics(feature, twice).float()
        bins = default_bins(logits.device)
        likely = logits.masked_fill(bins.abs() > span, -torch.inf).softmax(-1)
        return (likely * bins).sum(-1) / span + self.priors(feature, twice) / span


class CriticsEstimate(Estimate):
    """The values of N sequences, and how to learn them."""

    def __init__(self, critics: Critics, feature: Tensor):
        self._critics, self._feature = critics, feature
        self._critic = TwoHot.from_logits(critics.critics(feature))  # [V, N, T]
        learns = torch.is_grad_enabled()  # an evaluation asks too, and must leave no trace
        with torch.no_grad():
            self._prior = critics.priors(feature, learns=learns)
            self._members = self._critic.mean() + self._prior
            self.value = reduce_members(self._members, critics.config, draw=learns)

    @property
    def members(self) -> Tensor:
        """[V, N, T], detached."""
        return self._members

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy to target - beta prior_i and to the slow copy, summed over members."""
        with torch.no_grad():
            slow = TwoHot.from_logits(self._critics.slow(self._feature[:, :-1])).mean()
        critic = TwoHot.from_logits(self._critic.logits[:, :, :-1])
        fit = -critic.log_prob(target - self._prior[:, :, :-1])
        return (fit - self._critics.options.slow_weight * critic.log_prob(slow)).sum(0)
