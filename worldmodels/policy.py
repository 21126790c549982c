"""The policy's network and its distribution. Letters: N rows, A action size, F feature width."""

import torch
from torch import Tensor

from worldmodels.distributions import BoundedNormal, OneHot
from worldmodels.envs.spec import ActionSpec
from worldmodels.heads import Head


class Policy(Head):
    """Feature -> one-hot actions, or normal ones with a mean in [-1, 1]."""

    def __init__(
        self, feature_size: int, units: int, layers: int, action: ActionSpec, unimix: float
    ):
        self.discrete, self.unimix = action.kind == "discrete", unimix
        outputs = action.size if self.discrete else 2 * action.size
        super().__init__(feature_size, units, layers, outputs, scale=0.01)

    def distribution(self, feature: Tensor) -> OneHot | BoundedNormal:
        """The policy at feature [..., F]."""
        output = self(feature)
        if self.discrete:
            return OneHot.from_logits(output, self.unimix)
        return BoundedNormal.from_parameters(output)

    @torch.no_grad()
    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A]: one-hot or real; without gradient."""
        distribution = self.distribution(feature)
        return distribution.mode() if greedy else distribution.sample(generator)
