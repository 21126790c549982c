"""Implicit Q-learning on the world model's replayed states: no action outside the data is valued.

Source: Kostrikov et al. 2021 (arXiv 2110.06169). There is no imagination in it, and so no edge of
reach: the baseline for reach-aware values. Letters: B sequences, T rows, N rows, A action size,
F feature width, V action-value networks.
"""

import copy
from typing import Self

import torch
from torch import Tensor

from worldmodels.config import Config
from worldmodels.envs.spec import ActionSpec, EnvSpec
from worldmodels.heads import Head
from worldmodels.iql_options import IQLConfig
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.policy import Policy
from worldmodels.sockets import ActorCriticBase
from worldmodels.values.configs import check_no_values
from worldmodels.values.ensemble import Ensemble


class IQL(ActorCriticBase):
    """`actor_critic.name: iql`. Row t's action is the one that led to row t + 1."""

    def __init__(self, config: IQLConfig, feature_size: int, action: ActionSpec, discount: float):
        super().__init__()
        self.config, self.discount, self.action_size = config, discount, action.size
        sizes = (config.units, config.layers)
        self.policy = Policy(feature_size, *sizes, action, config.unimix)
        self.state_value = Head(feature_size, *sizes, 1, scale=0.0)
        self.action_value = Ensemble(config.critics, feature_size + action.size, *sizes, 1, 0.0)
        self.slow = copy.deepcopy(self.action_value).requires_grad_(False)

    @classmethod
    def build(cls, config: Config, spec: EnvSpec, feature_size: int) -> Self:
        """For any action space."""
        check_no_values(config.values, "iql")
        return cls(config.actor_critic, feature_size, spec.action, config.discount)

    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A], without gradient."""
        return self.policy.act(feature, greedy=greedy, generator=generator)

    def value(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> V [N], with its gradient."""
        return self.state_value(feature).squeeze(-1).float()

    def forward(
        self, rollout: Rollout, latents: Latents, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses [B, T-1] by name, and statistics; the rollout is not read.

        With u = min_i slow Q_i(s, a) - V(s): V |expectile - 1(u < 0)| u^2; Q_i
        (r + discount (1 - terminal) V(s') - Q_i(s, a))^2, summed over i; the policy
        -min(exp(temperature u), largest) log pi(a | s). An episode's last row has no action.
        """
        feature = latents.feature.detach()
        state, action = feature[:, :-1], batch.prev_action[:, 1:]
        acted = 1 - batch.is_last[:, :-1].float()
        value = self.state_value(feature).squeeze(-1).float()  # [B, T]
        pair = torch.cat([state, action], -1)
        with torch.no_grad():
            slow = self.slow(pair).squeeze(-1).float().amin(0)
            goes_on = self.discount * (1 - batch.is_terminal[:, 1:].float())
            target = batch.reward[:, 1:] + goes_on * value[:, 1:]
        above = slow - value[:, :-1]
        level = torch.where(above < 0, 1 - self.config.expectile, self.config.expectile)
        error = target - self.action_value(pair).squeeze(-1).float()  # [V, B, T-1]
        weight = (self.config.temperature * above.detach()).exp()
        weight = weight.clamp(max=self.config.largest_weight)
        chosen = self.policy.distribution(state).log_prob(action)
        losses = {
            "policy": -acted * weight * chosen,
            "value": acted * level * above.square(),
            "action_value": acted * error.square().sum(0),
        }
        return losses, {
            "value": value.mean().detach(),
            "advantage": above.mean().detach(),
            "weight": weight.mean(),
        }

    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""
        return {"policy": 1.0, "value": 1.0, "action_value": 1.0}

    @torch.no_grad()
    def after_update(self) -> None:
        """The slow action values follow."""
        torch._foreach_lerp_(
            list(self.slow.parameters()),
            list(self.action_value.parameters()),
            self.config.slow_rate,
        )
