"""The same question on the plane, for SAC with N critics in true dynamics: RAVL as published.

`reach:plane` has starts within 2, rollouts of 10 steps and episodes of 30; the frame beyond 11 is
reached by a rollout's last step alone. Letters: M starts, L imagined steps.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldmodels.envs.reach import ReachDynamics
from worldmodels.envs.reach_config import ReachPlaneConfig
from worldmodels.envs.registry import make
from worldmodels.imagination import imagine
from worldmodels.learner import Learner
from worldmodels.objects import Batch
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric

STARTS, LENGTH, HORIZON, EPISODES = 32, 10, 30, 256
TASK = ReachPlaneConfig()
INSIDE = TASK.edge - 1
WORST = -60.0
"""What a patched bootstrap says."""


@dataclass(frozen=True)
class Method:
    """N critics, their minimum, and EDAC's term with its weight."""

    critics: int
    eta: float = 0.0
    patch: float | None = None
    """Steps that come farther out than this end there, worth WORST."""


class PatchedDynamics(ReachDynamics):
    """Arriving farther out than `inside` is worth WORST."""

    def __init__(self, config: ReachPlaneConfig, inside: float):
        super().__init__(config)
        self.inside = inside

    def step(self, state: Any, action: Any) -> tuple[Any, Any, Any]:
        """As `ReachDynamics`, but for the steps that come beyond."""
        arrived, reward, cont = super().step(state, action)
        beyond = torch.maximum(arrived[0].abs(), arrived[1].abs()) > self.inside
        return arrived, reward + beyond * WORST, cont * ~beyond


class Run:
    """A learner on the plane and what is measured of it."""

    def __init__(self, method: Method, seed: int):
        torch.manual_seed(seed)
        config = load_config(
            "reach:plane",
            ["ravl-mbpo"],
            world_model={"name": "known"},
            actor_critic={
                "critics": method.critics,
                "diversity": method.eta,
                "layers": 2,
                "units": 64,
                "imagination_length": LENGTH,
                "real_share": 0,
                "retain": 200,
                "slow_rate": 0.05,
            },
            optimizer={"learning_rate": 1e-3},
            replay={"batch_size": STARTS, "batch_length": 2},
        )
        self.learner = Learner(config, make(config.env, 0).spec, build_fabric("cpu", "32"))
        self.dynamics = ReachDynamics(TASK)
        if method.patch is not None:
            self.learner.world_model.dynamics = PatchedDynamics(TASK, method.patch)
        self.bound = 0.5 * config.horizon

    def update(self) -> None:
        """One update, from fresh starts."""
        self.learner.gradients(starts(STARTS))
        self.learner.apply()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return of episodes, believed and true value of starts, and where rollouts end."""
        learner: Any = self.learner
        with torch.random.fork_rng():
            torch.manual_seed(0)
            latents = learner.world_model.observe(starts(EPISODES), "all")
            ends = imagine(learner.world_model, learner.actor_critic, latents, LENGTH).feature[
                :, -1
            ]
            first = starts(EPISODES).obs["vector"][:, 0]
            total, worth = self.play(first)
        feature = torch.cat([first, torch.ones(EPISODES, 1)], 1)
        at_end = learner.actor_critic.value(ends)
        return {
            "return": float(total.mean()),
            "value_start": float(learner.actor_critic.value(feature).mean()),
            "true_start": float(worth.mean()),
            "max_edge": float(at_end.max()),
            "edge": float((ends[:, :2].abs().amax(1) * 10 > INSIDE).float().mean()),
        }

    def play(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [M, 2] -> returns of HORIZON steps, and discounted ones of 300, of the mode."""
        state = self.dynamics.state(vector.unbind(-1))
        total, worth = torch.zeros(len(vector)), torch.zeros(len(vector))
        for step in range(300):
            feature = torch.stack([*self.dynamics.observe(state), torch.ones(len(vector))], -1)
            action = self.learner.actor_critic.act(feature, greedy=True)
            state, reward, _ = self.dynamics.step(state, action.unbind(-1))
            total += reward * (step < HORIZON)
            worth += self.learner.config.discount**step * reward
        return total, worth


def starts(count: int) -> Batch:
    """`count` sequences of two rows that open episodes, anywhere within the start square."""
    shape = (count, 2)
    no = torch.zeros(shape, dtype=torch.bool)
    return Batch(
        obs={"vector": (2 * torch.rand(*shape, 2) - 1) * TASK.half_width / 10},
        prev_action=torch.zeros(*shape, 2),
        reward=torch.zeros(shape),
        is_first=~no,
        is_last=no,
        is_terminal=no,
        obs_valid=~no,
        index=torch.zeros(shape, dtype=torch.int64),
        reset=~no,
    )
