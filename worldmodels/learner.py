"""One update: world-model loss, imagination, actor-critic loss, one backward, one optimiser step.

Nothing inside reads a tensor's value back and all shapes are static, so that an update can be
compiled or captured as a graph; `gradients` and `apply` are apart so that a caller can look at the
loss before the parameters change.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldmodels.backbones.base import Emit, Stratified
from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec
from worldmodels.imagination import imagine
from worldmodels.kinds import actor_critic_class, world_model_class
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.optimizer import build_optimizer
from worldmodels.sockets import ActorCriticBase, WorldModelBase


@dataclass(frozen=True)
class Update:
    """What one update tells; losses and statistics by name are 0-d tensors."""

    loss: Tensor
    metrics: dict[str, Tensor]
    latents: Latents


def build_models(config: Config, spec: EnvSpec) -> tuple[WorldModelBase, ActorCriticBase]:
    """The two modules of a run, freshly initialised from torch's global generator."""
    world_model = world_model_class(config.world_model.name).build(config, spec)
    kind = actor_critic_class(config.actor_critic.name)
    actor_critic = kind.build(config, spec, world_model.feature_size)
    world_model.heed(actor_critic.value)
    return world_model, actor_critic


class Learner:
    """Both modules, wrapped by Fabric for their `forward`, and their one optimiser."""

    def __init__(self, config: Config, spec: EnvSpec, fabric: Any):
        self.config, self.fabric = config, fabric
        self.world_model, self.actor_critic = build_models(config, spec)
        modules = (self.world_model, self.actor_critic)
        optimizer = build_optimizer(config.optimizer, modules)
        self.learn_model, self.learn_behaviour = (fabric.setup_module(m) for m in modules)
        self.optimizer = fabric.setup_optimizers(optimizer)
        self.weights = self.world_model.weights() | self.actor_critic.weights()
        self.updates = 0

    def gradients(self, batch: Batch, context: Batch | None = None) -> Update:
        """Forward and backward on one batch; the parameters stay as they are.

        Imagination starts from states of the batch, or from the ends of the windows `context`.
        """
        alone = self.config.model_updates
        learns, acts = not alone or self.updates < alone, self.updates >= alone
        with self.fabric.autocast():
            batch = self.world_model.warm_up(batch)
        with torch.set_grad_enabled(learns):
            model_losses, latents = self.model_losses(batch)
        losses, statistics = model_losses if learns else {}, {}
        if acts:
            seen = (latents, batch) if context is None else self.run_context(context)
            behaviour_losses, statistics = self.learn_behaviour(self.imagine(seen[0]), *seen)
            losses = losses | behaviour_losses
        losses = {name: x.mean() for name, x in losses.items()}
        loss = self.backward(losses)
        metrics = {f"loss/{name}": x.detach() for name, x in losses.items()}
        metrics |= {f"behaviour/{name}": x for name, x in statistics.items()}
        return Update(loss, metrics, latents)

    def model_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Latents]:
        """The world model's forward, with the rows that imagination starts from."""
        return self.learn_model(batch, self._starts(batch))

    @torch.no_grad()
    def run_context(self, context: Batch) -> tuple[Latents, Batch]:
        """Windows drawn for imagination, which starts from their last rows; nothing is learned."""
        with self.fabric.autocast():
            context = self.world_model.warm_up(context)
            count, length = context.reward.shape
            rows = torch.arange(count, device=context.reward.device)
            ends = torch.stack([rows, torch.full_like(rows, length - 1)], 1)
            return self.world_model.observe(context, ends), context

    def imagine(self, latents: Latents) -> Rollout:
        """The policy rolled out by the unwrapped modules."""
        length = self.config.actor_critic.imagination_length
        with self.fabric.autocast():
            return imagine(self.world_model, self.actor_critic, latents, length)

    def backward(self, losses: dict[str, Tensor]) -> Tensor:
        """Weigh, sum and differentiate the mean losses; returns the sum, detached."""
        weighed = [losses[name] * weight for name, weight in self.weights.items() if name in losses]
        assert len(weighed) == len(losses), (losses.keys(), self.weights.keys())
        loss = torch.stack(weighed).sum()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        return loss.detach()

    def apply(self) -> None:
        """The optimiser's step, and what follows it."""
        self.optimizer.step()
        self.actor_critic.after_update()
        self.updates += 1

    def _starts(self, batch: Batch) -> Emit | Stratified:
        """Which rows imagination starts from: all, as many at every t without replacement, or none
        where it has windows of its own.
        """
        count, (size, length) = self.config.actor_critic.starts, batch.reward.shape
        if self.config.actor_critic.context:
            return Stratified.none(length, batch.reward.device)
        if not count or count >= size * length:
            return "all"
        order = torch.rand(length, size, device=batch.reward.device).argsort(1)
        return Stratified(order[:, : count // length])

    def state_dict(self) -> dict[str, Any]:
        """Everything of the learner that a checkpoint holds."""
        return {
            "world_model": self.world_model.state_dict(),
            "actor_critic": self.actor_critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the optimiser's options stay those of this run's config."""
        self.world_model.load_state_dict(state["world_model"])
        self.actor_critic.load_state_dict(state["actor_critic"])
        saved = state["optimizer"]["param_groups"]
        groups = [
            {**now, "params": group["params"]}
            for group, now in zip(saved, self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.updates = state["updates"]
