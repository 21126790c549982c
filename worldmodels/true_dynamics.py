"""Imagination without model error: the environment's own transition, reward and end.

For environments that have `KnownDynamics` and observe one vector, which is the feature. Letters:
B sequences, T rows, N rows of a state, M starts, A action size, F numbers in the vector.
"""

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from worldmodels.backbones.base import Emit, LeafSpec, State, Stratified, gather_rows
from worldmodels.config import Config
from worldmodels.envs.known import KnownDynamics
from worldmodels.envs.registry import known_dynamics
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.known_options import KnownConfig
from worldmodels.objects import Batch, Carry, Latents
from worldmodels.sockets import Losses, Prediction, WorldModelBase


class TrueDynamics(WorldModelBase):
    """`world_model.name: known`; nothing in it learns. A carry is the vector and what arrived."""

    def __init__(
        self, config: KnownConfig, spec: EnvSpec, dynamics: KnownDynamics, discount: float
    ):
        super().__init__()
        kinds = [one.kind for one in spec.obs.values()]
        if kinds != ["vector"]:
            raise UserError(
                f"{spec.name} shows {', '.join(kinds)}, but known dynamics are imagined in one "
                "vector: choose that (the lattice: --env.observation vector), or --preset small"
            )
        self.config, self.dynamics, self.discount = config, dynamics, discount
        [(self.key, obs)] = spec.obs.items()
        self.feature_size, self.discrete = obs.shape[0], spec.action.kind == "discrete"
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(()), persistent=False)  # knows the device

    @classmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """With the rules of the run's environment."""
        return cls(config.world_model, spec, known_dynamics(config.env), config.discount)

    def forward(self, batch: Batch, emit: Emit | Stratified) -> tuple[Losses, Latents]:
        """No losses; the rows themselves as latents."""
        feature = batch.obs[self.key]
        shape = feature.shape[:2]
        rows = torch.cartesian_prod(*(torch.arange(n, device=feature.device) for n in shape))
        index = gather_rows(rows.unflatten(0, shape), emit)
        weight = ~gather_rows(batch.is_terminal, emit)
        if self.config.starts == "first":
            index, weight = self._first(batch.is_first, len(index))
        no_logits = feature.new_zeros(*shape, 0, 0)
        arrived = self._carry(feature, batch.reward, self.discount * ~batch.is_terminal)
        return {}, Latents(
            feature=feature,
            post_logits=no_logits,
            prior_logits=no_logits,
            start=State({name: leaf[index[:, 0], index[:, 1]] for name, leaf in arrived.items()}),
            start_index=index,
            start_weight=weight.float(),
            last=State({name: leaf[:, -1] for name, leaf in arrived.items()}),
        )

    def _first(self, is_first: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws [M, 2] of rows that open an episode; weight 0 [M] where there is none."""
        first = is_first.flatten().float()
        place = torch.multinomial(torch.where(first.any(), first, 1.0), count, replacement=True)
        length = is_first.shape[1]
        return torch.stack([place // length, place % length], 1), first[place]

    def weights(self) -> dict[str, float]:
        """None."""
        return {}

    def warm_up(self, batch: Batch) -> Batch:
        """Leave the `burnin` rows out."""
        return replace(batch.rows(batch.burnin, batch.reward.shape[1]), burnin=0)

    def carry_spec(self) -> dict[str, LeafSpec]:
        """Leaves `vector`, and `reward` and `cont` of the step that led there."""
        return {
            "vector": LeafSpec((self.feature_size,)),
            "reward": LeafSpec(()),
            "cont": LeafSpec(()),
        }

    def initial(self, batch_size: int) -> Carry:
        """Zeros; the first observation replaces them."""
        vector = self.nothing.new_zeros(batch_size, self.feature_size)
        return self._carry(vector, 0.0, 0.0)

    def observe_step(
        self,
        carry: Carry,
        prev_action: Tensor,
        obs: dict[str, Tensor],
        reset: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Carry:
        """obs [N, ...] is all there is to know; neither reward nor end is read when acting."""
        return self._carry(obs[self.key], 0.0, 0.0)

    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """action [N, A], one-hot or in [-1, 1], chosen at `carry` -> the state it leads to."""
        state = self.dynamics.state(carry["vector"].unbind(-1))
        chosen = action.argmax(-1) if self.discrete else action.unbind(-1)
        state, reward, goes_on = self.dynamics.step(state, chosen)
        vector = torch.stack(self.dynamics.observe(state), -1)
        return self._carry(vector, reward, self.discount * goes_on)

    def _carry(self, vector: Tensor, reward: Any, cont: Any) -> Carry:
        """reward and cont are tensors [...] or numbers that serve all rows."""
        empty = vector.new_zeros(vector.shape[:-1])
        return State({"vector": vector, "reward": empty + reward, "cont": empty + cont})

    def feature(self, carry: Carry) -> Tensor:
        """The vector [N, F]."""
        return carry["vector"]

    def reading(self, carry: Carry) -> Tensor:
        """Vector, reward and continuation [N, F + 2]: they belong to a step, not to a state."""
        return torch.cat([carry["vector"], carry["reward"][:, None], carry["cont"][:, None]], -1)

    def predict(self, reading: Tensor) -> Prediction:
        """reading [..., F + 2] -> what the step that led there brought."""
        return Prediction(reading[..., -2], reading[..., -1])

    def describe(self, config: Config) -> str:
        """Whose rules."""
        return f"the dynamics of {config.env.name} itself, imagined from {self.config.starts} rows"
