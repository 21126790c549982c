"""Policy and critic, learned from imagined and replayed states (DreamerV3, arXiv 2301.04104).

Letters: B sequences, T rows, M starts, L imagined steps, A action size, F feature width.
"""

import copy

import torch
from torch import Tensor, nn

from worldmodels.config import ActorCriticConfig
from worldmodels.distributions import BoundedNormal, OneHot, TwoHot, default_bins
from worldmodels.envs.spec import ActionSpec
from worldmodels.heads import Head
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.returns import ReturnNormalizer, lambda_returns


class ActorCritic(nn.Module):
    """`forward` learns from a detached rollout and the attached replay features; `act` acts."""

    def __init__(
        self, config: ActorCriticConfig, feature_size: int, action: ActionSpec, discount: float
    ):
        super().__init__()
        self.config, self.discount = config, discount
        self.discrete = action.kind == "discrete"
        outputs = action.size if self.discrete else 2 * action.size
        bins = default_bins().shape[0]
        self.policy = Head(feature_size, config.units, config.layers, outputs, scale=0.01)
        self.value = Head(feature_size, config.units, config.layers, bins, scale=0.0)
        self.slow_value = copy.deepcopy(self.value).requires_grad_(False)
        self.normalizer = ReturnNormalizer(config.normalizer_decay)

    def distribution(self, feature: Tensor) -> OneHot | BoundedNormal:
        """The policy at feature [..., F]."""
        output = self.policy(feature)
        if self.discrete:
            return OneHot.from_logits(output, self.config.unimix)
        return BoundedNormal.from_parameters(output)

    @torch.no_grad()
    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A]: one-hot or real; without gradient."""
        distribution = self.distribution(feature)
        return distribution.mode() if greedy else distribution.sample(generator)

    def forward(
        self, rollout: Rollout, latents: Latents, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses by name, `policy` and `value` [M, L], `replay_value` [B, T-1]; and statistics."""
        critic = TwoHot.from_logits(self.value(rollout.feature))  # [M, L+1]
        with torch.no_grad():
            value = critic.mean()
        returns = lambda_returns(
            rollout.reward[:, 1:], rollout.cont[:, 1:], value, 1.0, self.config.return_lambda
        )
        self.normalizer.update(returns)
        weight = rollout.start_weight.unsqueeze(1) * rollout.cont.cumprod(1)[:, :-1]
        advantage = (returns - value[:, :-1]) / self.normalizer.scale
        policy = self.distribution(rollout.feature[:, :-1])
        entropy = policy.entropy()
        score = policy.log_prob(rollout.action) * advantage
        slow = TwoHot.from_logits(self.slow_value(rollout.feature[:, :-1])).mean()
        critic = TwoHot.from_logits(critic.logits[:, :-1])
        losses = {
            "policy": -weight * (score + self.config.entropy * entropy),
            "value": weight * self._critic_loss(critic, returns, slow),
            "replay_value": self._replay_value_loss(returns, latents, batch),
        }
        return losses, {
            "return": returns.mean(),
            "value": value.mean(),
            "return_scale": self.normalizer.scale,
            "entropy": entropy.mean().detach(),
            "imagined_reward": rollout.reward[:, 1:].mean(),
        }

    def _critic_loss(self, critic: TwoHot, target: Tensor, slow: Tensor) -> Tensor:
        fit = -critic.log_prob(target)
        return fit - self.config.slow_weight * critic.log_prob(slow)

    def _replay_value_loss(self, returns: Tensor, latents: Latents, batch: Batch) -> Tensor:
        """Lambda-returns over the replayed rows, which bootstrap through the imagined returns.

        R_t = r_{t+1} + g (1 - term_{t+1}) ((1 - lam_{t+1}) boot_{t+1} + lam_{t+1} R_{t+1}) with
        lam_t = lam (1 - last_t) and boot_t the imagined return from row t (the critic's value
        where imagination did not start): a truncated episode bootstraps, a terminal does not.
        """
        critic = TwoHot.from_logits(self.value(latents.feature))  # [B, T]
        with torch.no_grad():
            boot = critic.mean()
            boot[latents.start_index[:, 0], latents.start_index[:, 1]] = returns[:, 0]
            lam = self.config.return_lambda * (1 - batch.is_last[:, 1:].float())
            goes_on = 1 - batch.is_terminal[:, 1:].float()
            target = lambda_returns(batch.reward[:, 1:], goes_on, boot, self.discount, lam)
            slow = TwoHot.from_logits(self.slow_value(latents.feature[:, :-1])).mean()
        critic = TwoHot.from_logits(critic.logits[:, :-1])
        return (1 - batch.is_last[:, :-1].float()) * self._critic_loss(critic, target, slow)

    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""
        return {
            "policy": self.config.policy_weight,
            "value": self.config.value_weight,
            "replay_value": self.config.replay_value_weight,
        }

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic towards the critic; call it after every optimiser step."""
        torch._foreach_lerp_(
            list(self.slow_value.parameters()), list(self.value.parameters()), self.config.slow_rate
        )
