"""A dynamics ensemble: imagination in Gaussians learned from the rows (MBPO, MOPO, RAVL).

Sources: MBPO (Janner et al. 2019, arXiv 1906.08253) as the code of RAVL (Sims et al. 2024, arXiv
2402.12527) has it; the penalty is that of MOPO (Yu et al. 2020, arXiv 2005.13239). Letters: N
members, E elites, K transitions, M states, F numbers observed, A action size.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.backbones.base import Emit, Stratified
from worldmodels.config import Config
from worldmodels.control.gaussians import GaussianEnsemble, negative_log_likelihood
from worldmodels.control.options import EnsembleConfig
from worldmodels.control.stacked import full
from worldmodels.control.standardiser import Standardiser
from worldmodels.control.transitions import Transitions, replayed
from worldmodels.control.vagram import has_slope, value_weights
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.kernels.sequence import no_autocast
from worldmodels.objects import Batch, Carry, Latents
from worldmodels.observed import Observation, check_vectors
from worldmodels.sockets import Losses, Value

BOUNDS_WEIGHT = 0.01
"""Weight of the gap between the bounds of the log-variance."""
RARE = 5.0
"""First logit of going on: an episode ends at one step in 150 until the rows say otherwise."""


class EnsembleDynamics(Observation):
    """`world_model.name: ensemble`: N networks map (s, a) to a Gaussian of (s' - s, r).

    A step is drawn from one of the E elites, chosen anew for every row. Statistics of the inputs
    and the choice of elites move only while the model learns.
    """

    def __init__(self, config: EnsembleConfig, spec: EnvSpec, discount: float):
        super().__init__(spec, discount)
        self.config = config
        inputs = self.feature_size + spec.action.size
        sizes = (self.feature_size + 1, config.units, config.layers)
        self.networks = GaussianEnsemble(config.members, inputs, *sizes)
        self.standardiser = Standardiser(inputs)
        learned = config.termination == "learned"
        self.going_on = _going_on(self.feature_size, config.units) if learned else None
        self.error: Tensor
        self.elites: Tensor
        self.register_buffer("error", torch.zeros(config.members))
        self.register_buffer("elites", torch.arange(config.elites))

    @classmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """For environments of vectors, with any actions."""
        check_vectors(config, spec)
        if config.world_model.vagram and config.model_updates:
            raise UserError(
                "world_model.vagram asks a critic that learns beside the model, and with "
                "model_updates the model learns before it; leave one of the two 0"
            )
        return cls(config.world_model, spec, config.discount)

    def heed(self, value: Value) -> None:
        """For `vagram`; UserError where the critic has no slope."""
        if self.config.vagram and not has_slope(value, self.feature_size):
            raise UserError(
                "world_model.vagram weighs errors by the critic's slope, and this actor-critic "
                "gives none; use actor_critic.name sac or iql, or leave vagram 0"
            )
        self.value = value

    def forward(self, batch: Batch, emit: Emit | Stratified) -> tuple[Losses, Latents]:
        """Losses by name, `dynamics` and `continue` per transition [K]; none without gradient:
        the model is frozen then, and nothing in it moves."""
        _, latents = super().forward(batch, emit)
        if not torch.is_grad_enabled():
            return {}, latents
        data = replayed(latents.feature, batch, self.discount)
        held_out = is_held_out(batch.index[:, 1:].flatten(), self.config.held_out)
        self.standardiser.observe(torch.cat([data.state, data.action], 1), data.weight)
        mean, log_variance = self.networks(self._inputs(data.state, data.action))
        target = torch.cat([data.next_state - data.state, data.reward[:, None]], 1)
        learned = data.weight * ~held_out
        fit = negative_log_likelihood(mean, log_variance, target, self._weight(data, learned))
        # VaGraM's code judges members by its own loss, MBPO's by the plain error.
        error = fit if self.config.vagram else (mean - target).square().mean(-1)
        losses = {
            "dynamics": (_bootstrap(learned, self.config.members) * fit).sum(0),
            "log_variance": self.networks.bounds().sum(),
            "held_out": self._judge(error.detach(), data.weight * held_out),
        }
        if self.going_on is not None:
            losses["continue"] = self._continue_loss(self.going_on, data, learned)
        return losses, latents

    def _inputs(self, state: Tensor, action: Tensor) -> Tensor:
        return self.standardiser(torch.cat([state, action], -1))

    def _weight(self, data: Transitions, learned: Tensor) -> Tensor | float:
        """How much the errors count: of the state by the critic's slope, of the reward 1."""
        if not self.config.vagram:
            return 1.0
        deviation = self.standardiser.variance[: self.feature_size].sqrt()
        found = value_weights(
            self.value, data.next_state, deviation, learned > 0, self.config.vagram
        )
        return torch.cat([found, torch.ones_like(found[:, :1])], 1)

    def _judge(self, error: Tensor, weight: Tensor) -> Tensor:
        """error [N, K], detached -> every member's mean [N] over the held-out transitions, whose
        running average chooses the elites."""
        count = weight.sum()
        with no_autocast(error):
            found = (error @ weight) / count.clamp(min=1)
        self.error.lerp_(found, (1 - self.config.error_memory) * (count > 0).float())
        self.elites.copy_(self.error.argsort(stable=True)[: self.config.elites])
        return found

    def _continue_loss(self, going_on: nn.Module, data: Transitions, learned: Tensor) -> Tensor:
        logit = self._going_on_logit(going_on, data.next_state)
        truth = (data.cont > 0).float()
        loss = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        return _shares(learned) * loss

    def _going_on_logit(self, going_on: nn.Module, state: Tensor) -> Tensor:
        """state [K, F] -> [K]."""
        return full(going_on(self.standardiser(state)).squeeze(-1))

    def weights(self) -> dict[str, float]:
        """`held_out` is only measured: it has no gradient."""
        weights = {"dynamics": 1.0, "log_variance": BOUNDS_WEIGHT, "held_out": 0.0}
        return weights if self.going_on is None else {**weights, "continue": 1.0}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All with the model's own learning rate."""
        rate = self.config.learning_rate
        groups = self.networks.parameter_groups(rate, self.config.weight_decay)
        if self.going_on is not None:
            groups.append({"params": list(self.going_on.parameters()), "lr": rate})
        return groups

    @torch.no_grad()
    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """action [M, A] -> a draw from the Gaussian of one elite, another for every row."""
        state = carry["vector"]
        mean, log_variance = self.networks(self._inputs(state, action))  # [N, M, F + 1]
        deviation = (0.5 * log_variance).exp()
        rows = torch.arange(len(state), device=state.device)
        drawn = torch.randint(len(self.elites), rows.shape, generator=generator, device=rows.device)
        member = self.elites[drawn]
        noise = torch.empty_like(mean[0]).normal_(generator=generator)
        step = mean[member, rows] + deviation[member, rows] * noise
        vector, reward = state + step[:, :-1], step[:, -1]
        if self.config.penalty:
            reward = reward - self.config.penalty * deviation.norm(dim=-1).amax(0)
        return self._carry(vector, reward, self._cont(vector, generator))

    def _cont(self, state: Tensor, generator: torch.Generator | None) -> Tensor | float:
        """The discount, or 0 where an episode ends: drawn with the probability learned."""
        if self.going_on is None:
            return self.discount
        probability = self._going_on_logit(self.going_on, state).sigmoid()
        draw = torch.rand(probability.shape, generator=generator, device=state.device)
        return self.discount * (draw < probability).float()

    def describe(self, config: Config) -> str:
        """Numbers, and what ends an episode."""
        ends = {
            "learned": "episodes end as a network learned",
            "never": "no imagined episode ends",
        }[self.config.termination]
        penalty = f"; penalty {self.config.penalty:g}" if self.config.penalty else ""
        vagram = f"; VaGraM's weights {self.config.vagram:.0%}" if self.config.vagram else ""
        return (
            f"{self.config.members} Gaussian networks, {self.config.elites} of them elites by "
            f"{self.config.held_out:.0%} held-out rows; {ends}{penalty}{vagram}"
        )


def _going_on(inputs: int, units: int) -> nn.Sequential:
    """The network that learns whether an episode goes on."""
    output = nn.Linear(units, 1)
    nn.init.zeros_(output.weight)
    nn.init.constant_(output.bias, RARE)
    return nn.Sequential(
        nn.Linear(inputs, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU(), output
    )


def is_held_out(index: Tensor, share: float) -> Tensor:
    """Which rows (int64 ids, any shape) only measure errors: the same ones at every draw.

    A hash of the id (the mixing of SplitMix64, in signed numbers that wrap), so that the choice
    follows no pattern in the ids.
    """
    mixed = index * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    return ((mixed >> 40) & 0xFFFF) < share * 0x10000


def _shares(weight: Tensor) -> Tensor:
    """weight [..., K] so scaled that a mean over K is one over what has weight."""
    return weight * weight.shape[-1] / weight.sum(-1, keepdim=True).clamp(min=1)


def _bootstrap(weight: Tensor, members: int) -> Tensor:
    """[N, K]: how often each member drew each transition, scaled as `_shares` does.

    Counts are Poisson(1), the limit of drawing K of K with replacement.
    """
    return _shares(torch.poisson(weight.expand(members, -1)))
