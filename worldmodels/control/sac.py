"""Soft actor-critic with N critics on replayed and imagined transitions: SAC, MBPO, MOPO, RAVL.

Sources: SAC (Haarnoja et al. 2018, arXiv 1812.05905), EDAC (An et al. 2021, arXiv 2110.01548) and
the code of RAVL (Sims et al. 2024, arXiv 2402.12527). Letters: N critics, K transitions of an
update, M starts, L imagined steps, F feature width, A action size.
"""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from worldmodels.config import Config
from worldmodels.control.critics import Critics, diversity
from worldmodels.control.options import SACConfig
from worldmodels.control.policy import Policy
from worldmodels.control.ring import Ring
from worldmodels.control.transitions import Transitions, imagined, replayed
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.sockets import ActorCriticBase, Losses
from worldmodels.values.configs import check_no_values
from worldmodels.values.reach import reach_statistics


class SAC(ActorCriticBase):
    """`actor_critic.name: sac`, for continuous actions.

    One update is one step of all losses at once, each at the parameters before it: the policy's
    loss does not move the critics, theirs does not move the policy. (The published codes step
    alpha, policy and critics one after the other.)
    """

    def __init__(self, config: SACConfig, feature: int, action: int, discount: float, rows: int):
        """`rows`: imagined transitions that an update brings."""
        super().__init__()
        self.config, self.discount, self.action_size = config, discount, action
        sizes = (feature, action, config.units, config.layers)
        self.policy = Policy(*sizes)
        self.critics = Critics(config.critics, *sizes)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.ring = Ring(config.retain * rows, feature, action) if config.imagined else None

    @classmethod
    def build(cls, config: Config, spec: EnvSpec, feature_size: int) -> Self:
        """For continuous actions, and batches that hold enough replayed transitions."""
        options, replay = config.actor_critic, config.replay
        if spec.action.kind != "continuous":
            raise UserError(
                f"actor_critic.name sac needs continuous actions, and {spec.name} has "
                f"{spec.action.size} choices; use dreamer, as in --preset dreamerv3"
            )
        check_no_values(config.values, "sac")
        steps, rows = (replay.batch_length - 1), replay.batch_size * replay.batch_length
        if options.real > replay.batch_size * steps:
            raise UserError(
                f"a batch of {replay.batch_size} x {replay.batch_length} rows holds "
                f"{replay.batch_size * steps} transitions, and actor_critic.real_share x "
                f"actor_critic.batch asks for {options.real}; raise replay.batch_size"
            )
        starts = min(options.starts or rows, rows)
        imagines = starts * options.imagination_length
        return cls(options, feature_size, spec.action.size, config.discount, imagines)

    def forward(
        self, rollout: Rollout, latents: Latents, batch: Batch
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Losses [K] by name and statistics; the rollout goes into the ring first."""
        data = self._draw(rollout, latents, batch)
        weight = data.weight * len(data.weight) / data.weight.sum().clamp(min=1)
        target = self._target(data)
        value, slope = self._values(data)
        action, log_prob = self.policy(data.state).sample()
        judged = self.critics(data.state, action, frozen=True)  # [N, K]
        alpha = self.log_alpha.exp().detach()
        lacking = -self.action_size + log_prob.detach()  # target entropy, -A, less the entropy
        losses = {
            "critic": weight * (value - target).square().sum(0),
            "policy": weight * (alpha * log_prob - judged.amin(0)),
            "alpha": weight * (-self.log_alpha * lacking),
        }
        if slope is not None:
            losses["diversity"] = weight * diversity(slope)
        statistics = self._statistics(data, target, judged.detach(), log_prob.detach(), alpha)
        return losses, statistics | (self._reach(rollout.feature) if self.ring is not None else {})

    def _draw(self, rollout: Rollout, latents: Latents, batch: Batch) -> Transitions:
        """`real` transitions of the batch, and the rest out of the ring."""
        real = replayed(latents.feature, batch, self.discount).first_valid(self.config.real)
        if self.ring is None:
            return real
        self.ring.add(imagined(rollout))
        return Transitions.cat([real, self.ring.sample(self.config.imagined)])

    @torch.no_grad()
    def _target(self, data: Transitions) -> Tensor:
        """y = r + gamma (1 - d) (min_i Qslow_i(s', a') - alpha log pi(a'|s')), a' ~ pi: [K]."""
        action, log_prob = self.policy(data.next_state).sample()
        value = self.slow_critics(data.next_state, action).amin(0)
        return data.reward + data.cont * (value - self.log_alpha.exp() * log_prob)

    def _values(self, data: Transitions) -> tuple[Tensor, Tensor | None]:
        """Q_i(s, a) [N, K], and dQ_i/da [N, K, A] where diversity asks for it."""
        if self.config.diversity:
            return self.critics.with_slopes(data.state, data.action)
        return self.critics(data.state, data.action), None

    def _statistics(
        self, data: Transitions, target: Tensor, judged: Tensor, log_prob: Tensor, alpha: Tensor
    ) -> dict[str, Tensor]:
        """`judged` [N, K] are the values of the policy's own actions."""
        statistics = {
            "value": judged.amin(0).mean(),
            "target": target.mean(),
            "penalty": (judged.mean(0) - judged.amin(0)).mean(),  # RAVL's effective penalty
            "critic_deviation": judged.std(0, correction=0).mean(),
            "entropy": -log_prob.mean(),
            "alpha": alpha,
        }
        if self.ring is not None:
            statistics["imagined_reward"] = data.reward[self.config.real :].mean()
            statistics["ring"] = self.ring.size.float()
        return statistics

    @torch.no_grad()
    def _reach(self, feature: Tensor) -> dict[str, Tensor]:
        """Do rollouts [M, L + 1, F] end where no critic learns? Judged at the policy's modes."""
        state = feature.flatten(0, 1)
        members = self.critics(state, self.policy(state).mode()).unflatten(1, feature.shape[:2])
        return reach_statistics(feature, members, members.amin(0))

    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""
        weights = {"critic": 1.0, "policy": 1.0, "alpha": 1.0}
        return weights | ({"diversity": self.config.diversity} if self.config.diversity else {})

    @torch.no_grad()
    def act(
        self, feature: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """feature [N, F] -> action [N, A] in [-1, 1]."""
        policy = self.policy(feature)
        return policy.mode() if greedy else policy.sample(generator)[0]

    def value(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> min_i Q_i(s, a) [N] at the policy's mode a, with the gradient in both.

        Critics count alpha times the entropy of every later action as reward (the first one's
        not), so this lies above the plain return by what alpha pays for them.
        """
        return self.critics(feature, self.policy(feature).mode()).amin(0)

    @torch.no_grad()
    def after_update(self) -> None:
        """Polyak: the slow critics follow."""
        torch._foreach_lerp_(
            list(self.slow_critics.parameters()),
            list(self.critics.parameters()),
            self.config.slow_rate,
        )

    def describe(self, config: Config) -> list[str]:
        """What an update learns from, and what the ring takes."""
        options = self.config
        line = f"{options.critics} critics, {options.real} of {options.batch} transitions replayed"
        if self.ring is None:
            return [line]
        return [
            f"{line}; ring of {self.ring.capacity:,} imagined transitions, "
            f"{self.ring.nbytes / 2**20:.1f} MiB, also in every checkpoint"
        ]
