"""Ways to know the edge from learned features, as value learners of one's own (docs/values.md).

Letters: M starts, L imagined steps, N states, F feature width, K memories.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.heads import Head
from worldmodels.values.base import Estimate
from worldmodels.values.critics import Critics
from worldmodels.values.ensemble import draw_biases


class Ring(nn.Module):
    """The newest K states, of which a random few of each update are kept."""

    def __init__(self, size: int, feature_size: int, each: int):
        super().__init__()
        self.each = each
        self.states: Tensor
        self.register_buffer("states", torch.zeros(size, feature_size))
        self.place, self.filled = 0, 0

    def add(self, states: Tensor) -> None:
        """states [N, F]."""
        chosen = states[torch.randperm(len(states))[: self.each]]
        where = (self.place + torch.arange(len(chosen))) % len(self.states)
        self.states[where] = chosen
        self.place = int((self.place + len(chosen)) % len(self.states))
        self.filled = min(self.filled + len(chosen), len(self.states))

    @property
    def held(self) -> Tensor:
        """[K', F]."""
        return self.states[: self.filled]


class _Candidate(Critics):
    """Critics whose bootstraps see a memory of inputs (states 0..L-1) and of ends (state L)."""

    share = 32
    """Inputs kept of each update; of the ends, as many fewer as a rollout has."""

    def __init__(self, values: Any, options: Any, feature_size: int, discount: float):
        super().__init__(values, options, feature_size, discount)
        length, size = options.imagination_length, values.memory
        self.inputs = Ring(size, feature_size, 10 * self.share)
        self.ends = Ring(size // length, feature_size, 10 * self.share // length)

    def remember(self, feature: Tensor) -> None:
        """feature [M, L + 1, F] into both memories, in the proportion of a rollout."""
        self.inputs.add(feature[:, :-1].flatten(0, 1))
        self.ends.add(feature[:, -1])


class Votes(_Candidate):
    """Novelty = the share of ends among the k nearest of all that rollouts came to.

    The definition of the edge as a density ratio: a state that is a target much more often than an
    input. No distance is compared with a scale, so that it needs no threshold.
    """

    nearest = 16

    def bootstrap(self, estimate: Estimate, feature: Tensor, scale: Tensor) -> Tensor:
        """The last value less `reach_penalty` x scale x novelty; half the votes are as good as none:
        the farthest inputs are left after one step.
        """
        self.remember(feature)
        novelty = self.novelty_of(feature[:, -1])
        penalty = self.config.reach_penalty * scale * novelty
        return torch.cat([estimate.value[:, :-1], (estimate.value[:, -1] - penalty)[:, None]], 1)

    def novelty_of(self, feature: Tensor) -> Tensor:
        """[N, F] -> [N] in [0, 1]."""
        known = torch.cat([self.inputs.held, self.ends.held])
        nearest = torch.cdist(feature, known).topk(self.nearest, largest=False).indices
        votes = (nearest >= self.inputs.filled).float().mean(1)
        return (2 * votes - 1).clamp(min=0)


class Ratio(Votes):
    """The same ratio by a classifier of inputs against ends."""

    def __init__(self, values: Any, options: Any, feature_size: int, discount: float):
        super().__init__(values, options, feature_size, discount)
        self.judge = Head(feature_size, options.units, 2, 1, scale=1.0)
        draw_biases(self.judge)

    def novelty_of(self, feature: Tensor) -> Tensor:
        """[N, F] -> [N] in [0, 1]."""
        votes = torch.sigmoid(self.judge(feature).squeeze(-1))
        return (2 * votes - 1).clamp(min=0)

    def losses(self, estimate: Estimate, feature: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over both memories, each weighed by how often a rollout brings it."""
        rows = [ring.held[torch.randint(ring.filled, (256,))] for ring in (self.inputs, self.ends)]
        length = self.options.imagination_length
        logit = self.judge(torch.cat(rows)).squeeze(-1)
        target = torch.arange(512).ge(256).float()
        weight = torch.where(target > 0, 1.0, float(length))
        return {"judge": F.binary_cross_entropy_with_logits(logit, target, weight=weight)}

    def weights(self) -> dict[str, float]:
        """One."""
        return {"judge": 1.0}


class NearestValue(_Candidate):
    """Bootstrap with the least value among the state's own and its k nearest inputs'."""

    nearest = 32

    def bootstrap(self, estimate: Estimate, feature: Tensor, scale: Tensor) -> Tensor:
        """The values, the last one replaced by the least nearby."""
        self.remember(feature)
        held = self.inputs.held
        nearest = torch.cdist(feature[:, -1], held).topk(min(self.nearest, len(held)), largest=False)
        nearby = self(held[nearest.indices]).value  # [M, k]
        least = torch.minimum(nearby.amin(1), estimate.value[:, -1])
        return torch.cat([estimate.value[:, :-1], least[:, None]], 1)
