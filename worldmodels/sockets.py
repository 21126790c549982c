"""The learner's two sockets: what every world model and every actor-critic is (design section 5).

Letters: B sequences, T rows, N rows of a state, M starts, L imagined steps, A action size,
F feature width, R width of a reading.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from worldmodels.backbones.base import Emit, LeafSpec, Stratified
from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec
from worldmodels.objects import Batch, Carry, Latents, Rollout

Losses = dict[str, Tensor]
"""Unweighted, by name; the learner takes the mean of each, weighs and sums them."""
Value = Callable[[Tensor], Tensor]
"""feature [N, F] -> what a critic expects there, [N]: `ActorCriticBase.value`."""


class Prediction(NamedTuple):
    """What a world model says of a state."""

    reward: Tensor
    """[...], expected reward on arriving here."""
    cont: Tensor
    """[...], probability of going on, times the discount."""


class Socket(nn.Module, ABC):
    """What both have."""

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is learned, as the optimiser takes it: a group may have a learning rate (`lr`) and
        a `weight_decay` of its own."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


class WorldModelBase(Socket):
    """`forward` learns; `observe_step` acts; `imagine_step` and `predict` imagine."""

    feature_size: int
    """F: how much of a state the policy reads."""

    @classmethod
    @abstractmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """The world model of a run; UserError where it does not fit the environment."""

    def heed(self, value: Value) -> None:
        """Told once what the policy's critic is, for losses that ask what matters to it."""

    @abstractmethod
    def forward(self, batch: Batch, emit: Emit | Stratified) -> tuple[Losses, Latents]:
        """Losses by name and the latents that imagination starts from."""

    def observe(self, batch: Batch, emit: Emit | Stratified) -> Latents:
        """`forward` without its losses, for rows that nothing is learned from."""
        return self.forward(batch, emit)[1]

    @abstractmethod
    def carry_spec(self) -> dict[str, LeafSpec]:
        """The leaves of its states."""

    @abstractmethod
    def initial(self, batch_size: int) -> Carry:
        """The state before the first row, N rows."""

    @abstractmethod
    def observe_step(
        self,
        carry: Carry,
        prev_action: Tensor,
        obs: dict[str, Tensor],
        reset: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Carry:
        """One row of N streams: prev_action [N, A], obs [N, ...], reset [N] -> Carry after it."""

    @abstractmethod
    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """action [N, A] chosen at `carry` -> the state it leads to."""

    @abstractmethod
    def feature(self, carry: Carry) -> Tensor:
        """What the policy reads of N states, [N, F]."""

    def reading(self, carry: Carry) -> Tensor:
        """The feature and, behind it, what else `predict` reads of N states: [N, R], R >= F."""
        return self.feature(carry)

    @abstractmethod
    def predict(self, reading: Tensor) -> Prediction:
        """reading [..., R] -> reward and continuation at those states."""

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """The observation that N states predict; for world models that have pictures."""
        raise NotImplementedError(f"{type(self).__name__} has no decoder")

    def warm_up(self, batch: Batch) -> Batch:
        """The batch after its `burnin` rows, with the carry that they end in."""
        assert not batch.burnin, f"{type(self).__name__} has no state to warm up"
        return batch

    @abstractmethod
    def describe(self, config: Config) -> str:
        """What it is made of, in a few words."""


class ActorCriticBase(Socket):
    """`forward` learns from a detached rollout and the attached latents; `act` acts."""

    action_size: int
    """A."""

    @classmethod
    @abstractmethod
    def build(cls, config: Config, spec: EnvSpec, feature_size: int) -> Self:
        """The actor-critic of a run; UserError where it does not fit the environment."""

    @abstractmethod
    def forward(
        self, rollout: Rollout, latents: Latents, batch: Batch
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Losses by name, and statistics."""

    @abstractmethod
    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A], without gradient."""

    def value(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> the discounted return [N] that it expects; NaN where it has no say.

        With its gradient in `feature` where the critic has one to give.
        """
        return torch.full((len(feature),), torch.nan, device=feature.device)

    @abstractmethod
    def after_update(self) -> None:
        """What follows every optimiser step: slow copies move."""

    def describe(self, config: Config) -> list[str]:
        """Lines for the start of a run, beyond the number of parameters."""
        return []
