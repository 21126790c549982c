"""Imagination without model error: the environment's own transition, reward and end.

For environments that have `KnownDynamics` and observe one vector. The feature is that vector and a
constant 1: heads begin without biases, and the norm behind their first layer would leave of a short
vector its direction alone, so that far places looked like near ones. Letters: M starts, N rows of a
state, A action size, F width of the feature.
"""

from typing import Self

import torch
from torch import Tensor

from worldmodels.backbones.base import Emit, Stratified
from worldmodels.config import Config
from worldmodels.envs.known import KnownDynamics
from worldmodels.envs.registry import known_dynamics
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.known_options import KnownConfig
from worldmodels.objects import Batch, Carry
from worldmodels.observed import Observation, check_no_backbone


class TrueDynamics(Observation):
    """`world_model.name: known`; nothing in it learns."""

    def __init__(
        self, config: KnownConfig, spec: EnvSpec, dynamics: KnownDynamics, discount: float
    ):
        kinds = [one.kind for one in spec.obs.values()]
        if kinds != ["vector"]:
            raise UserError(
                f"{spec.name} shows {', '.join(kinds)}, but known dynamics are imagined in one "
                "vector: choose that (the lattice: --env.observation vector), or --preset small"
            )
        super().__init__(spec, discount)
        self.feature_size = self.observed + 1
        self.config, self.dynamics = config, dynamics
        self.discrete = spec.action.kind == "discrete"

    @classmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """With the rules of the run's environment; refuses what they leave nothing to do for."""
        check_no_backbone(config)
        if config.model_updates:
            raise UserError("world_model.name known learns nothing, so model_updates is 0 with it")
        return cls(config.world_model, spec, known_dynamics(config.env), config.discount)

    def _start_rows(self, batch: Batch, emit: Emit | Stratified) -> tuple[Tensor, Tensor]:
        index, weight = super()._start_rows(batch, emit)
        if self.config.starts == "first":
            return self._first(batch.is_first, len(index))
        return index, weight

    def _first(self, is_first: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws [M, 2] of rows that open an episode; weight 0 [M] where there is none."""
        first = is_first.flatten().float()
        place = torch.multinomial(torch.where(first.any(), first, 1.0), count, replacement=True)
        length = is_first.shape[1]
        return torch.stack([place // length, place % length], 1), first[place]

    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """action [N, A], one-hot or in [-1, 1], chosen at `carry` -> the state it leads to."""
        state = self.dynamics.state(carry["vector"].unbind(-1))
        chosen = action.argmax(-1) if self.discrete else action.unbind(-1)
        state, reward, goes_on = self.dynamics.step(state, chosen)
        vector = torch.stack(self.dynamics.observe(state), -1)
        return self._carry(vector, reward, self.discount * goes_on)

    def feature(self, carry: Carry) -> Tensor:
        """The vector and a constant, [..., F]."""
        vector = carry["vector"]
        return torch.cat([vector, vector.new_ones(*vector.shape[:-1], 1)], -1)

    def describe(self, config: Config) -> str:
        """Whose rules."""
        return f"the dynamics of {config.env.name} itself, imagined from {self.config.starts} rows"
