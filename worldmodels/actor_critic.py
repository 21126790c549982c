"""Policy and critic, learned from imagined and replayed states (DreamerV3, arXiv 2301.04104).

Letters: B sequences, T rows, M starts, L imagined steps, A action size, F feature width.
"""

from typing import Self

import torch
from torch import Tensor

from worldmodels.config import ActorCriticConfig, Config
from worldmodels.envs.spec import ActionSpec, EnvSpec
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.parts import values_class
from worldmodels.policy import Policy
from worldmodels.returns import ReturnNormalizer, lambda_returns
from worldmodels.sockets import ActorCriticBase
from worldmodels.values.configs import ValuesConfig
from worldmodels.values.reach import reach_statistics


class ActorCritic(ActorCriticBase):
    """`actor_critic.name: dreamer`."""

    def __init__(
        self,
        config: ActorCriticConfig,
        values: ValuesConfig,
        feature_size: int,
        action: ActionSpec,
        discount: float,
    ):
        super().__init__()
        self.config, self.discount = config, discount
        self.action_size = action.size
        self.policy = Policy(feature_size, config.units, config.layers, action, config.unimix)
        self.values = values_class(values.kind)(values, config, feature_size, discount)
        self.normalizer = ReturnNormalizer(config.normalizer_decay)

    @classmethod
    def build(cls, config: Config, spec: EnvSpec, feature_size: int) -> Self:
        """For any action space."""
        values = config.values
        return cls(config.actor_critic, values, feature_size, spec.action, config.discount)

    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A]: one-hot or real; without gradient."""
        return self.policy.act(feature, greedy=greedy, generator=generator)

    @torch.no_grad()
    def value(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> expected discounted return [N], as the policy's learning reads it."""
        return self.values(feature.unsqueeze(1)).value.squeeze(1)

    def forward(
        self, rollout: Rollout, latents: Latents, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses by name, `policy` and `value` [M, L], `replay_value` [B, T-1]; and statistics."""
        estimate, span = self.values(rollout.feature), self.normalizer.span
        with torch.no_grad():
            bootstrap = self.values.bootstrap(estimate, rollout.feature, span)
        returns = lambda_returns(
            rollout.reward[:, 1:], rollout.cont[:, 1:], bootstrap, 1.0, self.config.return_lambda
        )
        self.normalizer.update(returns)
        weight = rollout.start_weight.unsqueeze(1) * rollout.cont.cumprod(1)[:, :-1]
        advantage = (returns - estimate.value[:, :-1]) / self.normalizer.scale
        policy = self.policy.distribution(rollout.feature[:, :-1])
        entropy = policy.entropy()
        score = policy.log_prob(rollout.action) * advantage
        losses = {
            "policy": -weight * (score + self.config.entropy * entropy),
            "value": weight * estimate.loss(returns),
            "replay_value": self._replay_value_loss(returns, latents, batch),
            **self.values.losses(estimate, rollout.feature, span),
        }
        return losses, {
            "return": returns.mean(),
            "value": estimate.value.mean(),
            "return_scale": self.normalizer.scale,
            "entropy": entropy.mean().detach(),
            "imagined_reward": rollout.reward[:, 1:].mean(),
            **reach_statistics(rollout.feature, estimate.members, estimate.value),
        }

    def _replay_value_loss(self, returns: Tensor, latents: Latents, batch: Batch) -> Tensor:
        """Lambda-returns over the replayed rows, which bootstrap through the imagined returns.

        R_t = r_{t+1} + g (1 - term_{t+1}) ((1 - lam_{t+1}) boot_{t+1} + lam_{t+1} R_{t+1}) with
        lam_t = lam (1 - last_t) and boot_t the imagined return from row t (the critic's value
        where imagination did not start): a truncated episode bootstraps, a terminal does not.
        """
        estimate = self.values(latents.feature)  # [B, T]
        boot = estimate.value.clone()
        boot[latents.start_index[:, 0], latents.start_index[:, 1]] = returns[:, 0]
        lam = self.config.return_lambda * (1 - batch.is_last[:, 1:].float())
        goes_on = 1 - batch.is_terminal[:, 1:].float()
        target = lambda_returns(batch.reward[:, 1:], goes_on, boot, self.discount, lam)
        return (1 - batch.is_last[:, :-1].float()) * estimate.loss(target)

    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""
        return {
            "policy": self.config.policy_weight,
            "value": self.config.value_weight,
            "replay_value": self.config.replay_value_weight,
            **self.values.weights(),
        }

    def after_update(self) -> None:
        """Call it after every optimiser step: slow copies move."""
        self.values.after_update(self.normalizer.span)
