"""The same question where a world model has to be learned first, from pictures.

The model learns from a static data set that covers both sides of the edge: it knows the -1 beyond.
The policy learns in the frozen model, imagining from the centre alone, so that the edge is an edge
for the critic only. Letters: E episodes, T rows, N rows of a window.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.config import Config
from worldmodels.envs.reach_config import ReachConfig
from worldmodels.envs.registry import make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.evaluation import evaluate
from worldmodels.imagination import imagine
from worldmodels.learner import Learner
from worldmodels.objects import Batch, Latents
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric

EDGE = 6
EPISODES, WINDOWS, ROWS = 1000, 32, 8
MODEL_UPDATES, MODEL_RATE = 6000, 3e-3
STARTS, ROLLOUTS = 16, 256


def task(goal: str, half_width: int = 0) -> ReachConfig:
    """A lattice of 25 x 25 cells in pictures."""
    return ReachConfig(f"reach:{goal}", half_width=half_width, edge=EDGE, observation="pixels")


@dataclass
class DataSet:
    """Episodes of random play: planes [E, T, H, W, 1], reward [E, T], prev_action [E, T, A]."""

    planes: Tensor
    reward: Tensor
    action: Tensor

    @classmethod
    def record(cls, env_config: ReachConfig, seed: int) -> "DataSet":
        """EPISODES from starts all over the inside, which wander up to five cells beyond it."""
        env = make(env_config, seed)
        play, chosen = RandomPlay(env, seed), []
        step = env.step

        def recorded(action: np.ndarray):
            chosen.append(int(action))
            return step(action)

        env.step = recorded
        rows = env_config.max_steps + 1
        steps = [play.row() for _ in range(EPISODES * rows)]
        planes = np.concatenate([row.obs["planes"] for row in steps])
        reward = np.concatenate([row.reward for row in steps])
        action = np.zeros((EPISODES, rows, 9), np.float32)
        action[:, 1:] = np.eye(9)[np.array(chosen).reshape(EPISODES, rows - 1)]
        return cls(
            torch.from_numpy(planes).unflatten(0, (EPISODES, rows)),
            torch.from_numpy(reward).view(EPISODES, rows),
            torch.from_numpy(action),
        )

    def batch(self) -> Batch:
        """Random windows."""
        episode = torch.randint(EPISODES, (WINDOWS, 1))
        row = torch.randint(self.reward.shape[1] - ROWS + 1, (WINDOWS, 1)) + torch.arange(ROWS)
        fields = (self.planes[episode, row], self.reward[episode, row], self.action[episode, row])
        return batch_of(*fields, is_first=row == 0)


def batch_of(planes: Tensor, reward: Tensor, action: Tensor, is_first: Tensor) -> Batch:
    """Windows without a terminal; each starts from zeros."""
    no, reset = torch.zeros_like(is_first), is_first.clone()
    reset[:, 0] = True
    return Batch(
        obs={"planes": planes},
        prev_action=action,
        reward=reward,
        is_first=is_first,
        is_last=no,
        is_terminal=no,
        obs_valid=~no,
        index=torch.zeros_like(is_first, dtype=torch.int64),
        reset=reset,
    )


def configuration(goal: str, optimizer: dict[str, Any], **options: Any) -> Config:
    """Sizes of the preset demo with 8 x 16 latents; the rest as in lattice.py, Adam included."""
    config = load_config(
        "reach:ramp",
        ["demo"],
        optimizer={"name": "adam", "learning_rate": 1e-3, **optimizer},
        world_model={"classes": 16, "vector_layers": 2},
        actor_critic={
            "layers": 2,
            "imagination_length": EDGE,
            "entropy": 1e-2,
            "slow_rate": 0.05,
            "replay_value_weight": 0.0,
        },
        horizon=33,
        **options,
    )
    return replace(config, env=task(goal))


def learn_model(goal: str, seed: int, file: Path) -> dict[str, float]:
    """Train a world model on the data set, write it, and say how well it foresees."""
    torch.manual_seed(seed)
    data = DataSet.record(task(goal, half_width=EDGE - 1), seed)
    options = {"name": "laprop", "learning_rate": MODEL_RATE, "warmup": 50}
    config = configuration(goal, options, model_updates=MODEL_UPDATES + 1)
    learner = Learner(config, make(config.env, 0).spec, build_fabric("cpu", "32"))
    for update in range(MODEL_UPDATES):
        for group in learner.optimizer.param_groups:
            group["lr"] = MODEL_RATE * (1 - update / MODEL_UPDATES)
        learner.gradients(data.batch())
        learner.apply()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(learner.world_model.state_dict(), file)
    return Run(replace(config, model_updates=1), seed, file).foresight()


def places(planes: Tensor) -> Tensor:
    """Pictures, or their probabilities, [..., H, W, 1] -> (x, y) [..., 2]."""
    lit, half = planes[..., 0].float(), planes.shape[-2] // 2
    return torch.stack([lit.sum(-1).argmax(-1), lit.sum(-2).argmax(-1)], -1) - half


class Run:
    """A policy that learns in a frozen model, from the centre."""

    def __init__(self, config: Config, seed: int, model: Path):
        torch.manual_seed(seed)
        self.config, self.seed = config, seed
        self.spec = make(config.env, 0).spec
        self.learner = Learner(config, self.spec, build_fabric("cpu", "32"))
        self.learner.world_model.load_state_dict(torch.load(model, weights_only=True))
        self.learner.updates = config.model_updates  # the model's are done
        self.agent = Agent(self.learner.world_model, self.learner.actor_critic, config, self.spec)
        centre = make(config.env, 0).reset().obs["planes"][0]
        planes = torch.from_numpy(centre).expand(STARTS, 2, *centre.shape)
        first = torch.tensor([True, False]).expand(STARTS, 2)
        stay = torch.eye(9)[4].expand(STARTS, 2, 9) * ~first.unsqueeze(-1)
        self.batch = batch_of(planes, torch.zeros(STARTS, 2), stay, first)

    def update(self) -> None:
        """One update of actor and critic."""
        self.learner.gradients(self.batch)
        self.learner.apply()

    @torch.no_grad()
    def latents(self) -> Latents:
        """ROLLOUTS starts in the centre."""
        found = self.learner.world_model.observe(self.batch, "all")
        rows = torch.arange(ROLLOUTS) % len(found.start_weight)
        return replace(found, start=found.start.index(rows), start_weight=torch.ones(ROLLOUTS))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Values where rollouts begin and end, how many end beyond, and the return in the world."""
        learner, length = self.learner, self.config.actor_critic.imagination_length
        with torch.random.fork_rng():  # measuring never disturbs learning
            torch.manual_seed(self.seed)
            rollout = imagine(learner.world_model, learner.actor_critic, self.latents(), length)
            estimate = learner.actor_critic.values(rollout.feature)
            ends = self.decoded(rollout.feature[:, -1])
        scores = evaluate(self.agent, 64, seed=self.seed, num_envs=64)
        spread = estimate.members.std(0, correction=0)
        return {
            "return": scores["mean"],
            "value_start": float(estimate.value[:, 0].mean()),
            "value_end": float(estimate.value[:, -1].mean()),
            "edge": float((ends.abs().amax(-1) >= self.config.env.edge).float().mean()),
            "spread_inside": float(spread[:, :-1].mean()),
            "spread_end": float(spread[:, -1].mean()),
            "scale": float(learner.actor_critic.normalizer.scale),
        }

    def decoded(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> (x, y) [N, 2] by the decoder's picture."""
        model: Any = self.learner.world_model
        h, z = feature.split([feature.shape[1] - 128, 128], 1)
        raw = model.decoder(h, z.unflatten(1, (8, 16)))
        return places(model.decoder.predict(raw)["planes"])

    @torch.no_grad()
    def foresight(self) -> dict[str, float]:
        """Share of places, and mean error of rewards, foreseen right 10 random steps ahead."""
        model: Any = self.learner.world_model
        carry, place = self.latents().start, torch.zeros(ROLLOUTS, 2)
        dynamics = make(replace(self.config.env, observation="vector"), 0).dynamics
        error = torch.zeros(())
        for _ in range(EDGE):
            action = torch.randint(9, (ROLLOUTS,))
            carry = model.imagine_step(carry, torch.eye(9)[action])
            place, reward, _ = dynamics.step(tuple(place.unbind(1)), action)
            place = torch.stack(place, 1)
            error = (model.predict(model.reading(carry)).reward - reward).abs().mean()
        right = (places(model.decode(carry)["planes"]) == place).all(1)
        return {"places_right": float(right.float().mean()), "reward_error": float(error)}
