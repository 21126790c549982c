"""The Dreamer-like learner on the lattice with true dynamics: one method, one seed, one curve.

The learner, its imagination and its values are those of any run; only the batch is fixed: rows that
open an episode, so that every rollout starts in the centre.
"""

from typing import Any

import torch
from truth import Lattice

from worldmodels.config import Config
from worldmodels.envs.registry import make
from worldmodels.imagination import imagine
from worldmodels.learner import Learner
from worldmodels.objects import Batch
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric

SEQUENCES, ROLLOUTS = 16, 256


def configuration(task: str, values: dict[str, Any]) -> Config:
    """The preset reach with 32 starts an update; Adam, as in the reference's prototype."""
    return load_config(
        task,
        ["reach"],
        values=values,
        actor_critic={"starts": 0},
        optimizer={"name": "adam", "learning_rate": 1e-3},
        replay={"batch_size": SEQUENCES, "batch_length": 2},
    )


def opening_rows(count: int, actions: int) -> Batch:
    """`count` sequences of two rows: an episode's first, in the centre, and one that stays."""
    shape = (count, 2)
    no = torch.zeros(shape, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    return Batch(
        obs={"vector": torch.zeros(*shape, 2)},
        prev_action=torch.zeros(*shape, actions),
        reward=torch.zeros(shape),
        is_first=first,
        is_last=no,
        is_terminal=no,
        obs_valid=~no,
        index=torch.zeros(shape, dtype=torch.int64),
        reset=first,
    )


class Run:
    """A learner on the lattice and what is measured of it."""

    def __init__(self, config: Config, seed: int):
        torch.manual_seed(seed)
        self.config, self.lattice = config, Lattice(config.env)
        spec = make(config.env, 0).spec
        self.learner = Learner(config, spec, build_fabric("cpu", "32"))
        self.batch = opening_rows(SEQUENCES, spec.action.size)
        self.latents = self.learner.world_model.observe(self.batch, "all")
        values = self.learner.actor_critic.values
        if hasattr(values, "lattice"):  # the oracle's patch
            values.lattice, values.policy = self.lattice, self.policy

    def policy(self) -> torch.Tensor:
        """Probabilities [C, A] in every cell."""
        with torch.no_grad():
            return self.learner.actor_critic.policy.distribution(self.lattice.feature).probs

    def update(self) -> None:
        """One update of actor and critic."""
        self.learner.gradients(self.batch)
        self.learner.apply()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Predicted and true value where rollouts start and end, and how many end outside."""
        learner, lattice = self.learner, self.lattice
        rows = torch.arange(ROLLOUTS) % len(self.latents.start_weight)
        latents = type(self.latents)(
            **vars(self.latents)
            | {"start": self.latents.start.index(rows), "start_weight": torch.ones(ROLLOUTS)}
        )
        length = self.config.actor_critic.imagination_length
        with torch.random.fork_rng():  # measuring never disturbs learning
            feature = imagine(learner.world_model, learner.actor_critic, latents, length).feature
            members = learner.actor_critic.values(feature).members  # [V, M, L + 1]
            value = learner.actor_critic.values(feature).value
        cells = lattice.cell_of(feature)
        policy = self.policy()
        truth = lattice.values(policy, self.config.discount, 400, torch.zeros(len(lattice.pay)))
        ends, outside = cells[:, -1], lattice.at_edge(cells[:, -1])
        spread = members.std(0, correction=0)
        return {
            "return": lattice.footprint(policy)["return"],
            "value_start": float(value[:, 0].mean()),
            "true_start": float(truth[lattice.start]),
            "value_end": float(value[:, -1].mean()),
            "true_end": float(truth[ends].mean()),
            "edge": float(outside.float().mean()),
            "spread_inside": float(spread[:, :-1].mean()),
            "spread_end": float(spread[:, -1].mean()),
            "scale": float(learner.actor_critic.normalizer.scale),
        }
