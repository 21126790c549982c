"""World models whose state is the observation itself; their posterior is to look.

`Observation` is the plain one, from which nothing can be imagined; those that can (known or learned
dynamics) derive from it. Letters: B sequences, T rows, N rows of a state, F numbers observed, A
action size.
"""

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from worldmodels.backbones.base import Emit, LeafSpec, State, Stratified, gather_rows
from worldmodels.backbones.configs import RSSMConfig
from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.objects import Batch, Carry, Latents
from worldmodels.sockets import Losses, Prediction, WorldModelBase


class Observation(WorldModelBase):
    """`world_model.name: observation`; nothing in it learns.

    A state is the vectors observed, side by side, and the reward and continuation of the step that
    led there: they belong to a step, so `predict` reads them out of the state.
    """

    def __init__(self, spec: EnvSpec, discount: float):
        super().__init__()
        self.keys, self.discount = list(spec.obs), discount
        self.feature_size = self.observed = sum(obs.shape[0] for obs in spec.obs.values())
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(()), persistent=False)  # knows the device

    @classmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """For environments of vectors; refuses what needs a model."""
        check_vectors(config, spec)
        if config.actor_critic.imagination_length or config.model_updates:
            raise UserError(
                "world_model.name observation imagines and learns nothing, so "
                "actor_critic.imagination_length and model_updates are 0 with it"
            )
        return cls(spec, config.discount)

    def forward(self, batch: Batch, emit: Emit | Stratified) -> tuple[Losses, Latents]:
        """No losses; the rows themselves as latents."""
        vector = self._vector(batch.obs)
        arrived = self._carry(vector, batch.reward, self.discount * (~batch.is_terminal).float())
        no_logits = vector.new_zeros(*vector.shape[:2], 0, 0)
        index, weight = self._start_rows(batch, emit)
        return {}, Latents(
            feature=self.feature(arrived),
            post_logits=no_logits,
            prior_logits=no_logits,
            start=arrived.map(lambda leaf: leaf[index[:, 0], index[:, 1]]),
            start_index=index,
            start_weight=weight,
            last=arrived.map(lambda leaf: leaf[:, -1]),
        )

    def _start_rows(self, batch: Batch, emit: Emit | Stratified) -> tuple[Tensor, Tensor]:
        """Where imagination starts, (b, t) [M, 2], and the weight [M] of each start."""
        shape, device = batch.reward.shape, batch.reward.device
        rows = torch.cartesian_prod(*(torch.arange(n, device=device) for n in shape))
        alive = ~batch.is_terminal & batch.obs_valid
        return gather_rows(rows.unflatten(0, shape), emit), gather_rows(alive, emit).float()

    def _vector(self, obs: dict[str, Tensor]) -> Tensor:
        """[..., F]."""
        return torch.cat([obs[key] for key in self.keys], -1)

    def _carry(self, vector: Tensor, reward: Any, cont: Any) -> Carry:
        """vector [..., F]; reward and cont are tensors [...] or numbers that serve all rows."""
        empty = vector.new_zeros(vector.shape[:-1])
        return State({"vector": vector, "reward": empty + reward, "cont": empty + cont})

    def weights(self) -> dict[str, float]:
        """None."""
        return {}

    def warm_up(self, batch: Batch) -> Batch:
        """Leave the `burnin` rows out: there is no memory to warm."""
        return replace(batch.rows(batch.burnin, batch.reward.shape[1]), burnin=0)

    def carry_spec(self) -> dict[str, LeafSpec]:
        """Leaves `vector`, and `reward` and `cont` of the step that led there."""
        leaves = {"vector": (self.observed,), "reward": (), "cont": ()}
        return {name: LeafSpec(shape) for name, shape in leaves.items()}

    def initial(self, batch_size: int) -> Carry:
        """Zeros; the first observation replaces them."""
        return self._carry(self.nothing.new_zeros(batch_size, self.observed), 0.0, 0.0)

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
        return self._carry(self._vector(obs), 0.0, 0.0)

    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """Refused: `build` allows no imagination."""
        raise NotImplementedError("an observation alone predicts nothing")

    def feature(self, carry: Carry) -> Tensor:
        """The vector [..., F]."""
        return carry["vector"]

    def reading(self, carry: Carry) -> Tensor:
        """Feature, reward and continuation: [..., F + 2]."""
        arrived = torch.stack([carry["reward"], carry["cont"]], -1)
        return torch.cat([self.feature(carry), arrived], -1)

    def predict(self, reading: Tensor) -> Prediction:
        """reading [..., F + 2] -> what the step that led there brought."""
        return Prediction(reading[..., -2], reading[..., -1])

    def describe(self, config: Config) -> str:
        """That there is none."""
        return f"none: the policy reads the {self.observed} numbers observed"


def check_vectors(config: Config, spec: EnvSpec) -> None:
    """UserError unless all observations are vectors and nobody asked for a backbone."""
    others = [f"{key} ({obs.kind})" for key, obs in spec.obs.items() if obs.kind != "vector"]
    if others:
        raise UserError(
            f"world_model.name {config.world_model.name} reads vectors, and {spec.name} shows "
            f"{', '.join(others)}; use latent, as in --preset dreamerv3"
        )
    check_no_backbone(config)


def check_no_backbone(config: Config) -> None:
    """UserError if somebody asked for one."""
    if config.backbone != RSSMConfig():
        raise UserError(
            f"world_model.name {config.world_model.name} has no sequence backbone, so --backbone "
            "and its options cannot be given with it"
        )
