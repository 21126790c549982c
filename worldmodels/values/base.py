"""What an actor-critic asks of its value learner: `ValueLearner` and `Estimate`.

Letters: N sequences, T states of each, F feature width, M starts, L imagined steps, V critics.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from worldmodels.config import ActorCriticConfig
from worldmodels.values.configs import ValuesConfig


class Estimate(ABC):
    """What a value learner says of N sequences of T states."""

    value: Tensor
    """[N, T], detached float32: the baseline, and what returns bootstrap from."""

    @abstractmethod
    def loss(self, target: Tensor) -> Tensor:
        """target [N, T - 1], detached returns from all states but the last -> loss [N, T - 1]."""

    @property
    def members(self) -> Tensor:
        """[V, N, T], detached: every critic's own value, of which `value` is made."""
        return self.value.unsqueeze(0)


class ValueLearner(nn.Module, ABC):
    """Learns values; policy, returns and their weights are the actor-critic's.

    A subclass is built as `kind(values, options, feature_size, discount)`, with the run's
    `ValuesConfig` and `ActorCriticConfig`, and is chosen by `--values.kind`
    (`worldmodels.values.testing.check_values` says whether it keeps its promises). It may hold
    frozen parameters (`requires_grad` False); all others must get a gradient from its losses.
    """

    def __init__(
        self,
        values: ValuesConfig,
        options: ActorCriticConfig,
        feature_size: int,
        discount: float,
    ):
        super().__init__()
        self.config, self.options = values, options
        self.feature_size, self.discount = feature_size, discount

    @abstractmethod
    def forward(self, feature: Tensor) -> Estimate:
        """feature [N, T, F], attached or not -> its values."""

    def bootstrap(self, estimate: Estimate, feature: Tensor, span: Tensor) -> Tensor:
        """The values [M, L + 1] that imagined returns bootstrap from.

        Of feature [M, L+1, F] (detached), the states 0..L-1 are inputs of the critic's loss and
        the last is a target only. `span` is the running range of returns and 0, at least 1 (0-d).
        """
        return estimate.value

    def losses(self, estimate: Estimate, feature: Tensor, span: Tensor) -> dict[str, Tensor]:
        """Further losses by name, of any shape, on the imagined states [M, L + 1, F]."""
        return {}

    def weights(self) -> dict[str, float]:
        """Weight of every loss in `losses`."""
        return {}

    def after_update(self, span: Tensor) -> None:
        """Called after every optimiser step; slow copies move here."""
