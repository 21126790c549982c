"""Where a run's rows come from: environments that are stepped, or a data set that is there.

A supply is opened first, because models and replay are built for its spec; then it makes the
collector that serves them (design law 11: the loop never asks which of them it has).
"""

from pathlib import Path
from typing import Any, Protocol

import torch

from worldmodels.agent import Agent
from worldmodels.collector import Collector
from worldmodels.config import Config
from worldmodels.envs.registry import describe_schedule, evaluations
from worldmodels.envs.spec import EnvSpec
from worldmodels.envs.vector import make_vec
from worldmodels.offline.dataset import References
from worldmodels.offline.record import read_record
from worldmodels.offline.supply import StaticSupply
from worldmodels.replay import Replay
from worldmodels.runtime.seeding import stream_seed


class AnyCollector(Protocol):
    """What the loop steps."""

    def start(self) -> list[str]:
        """Before the first step of a run that begins; what is to be told."""
        ...

    def collect(self) -> tuple[int, list[dict[str, Any]]]:
        """Agent steps that were done, and the episodes that ended with them."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what decides the next row into a checkpoint's folder; tensors and plain values are
        returned instead.
        """
        ...

    def load(self, folder: Path, state: dict[str, Any], step: int) -> list[str]:
        """Inverse of `save`, at agent step `step`; returns what could not be continued exactly."""
        ...


class Supply(Protocol):
    """Where rows come from."""

    spec: EnvSpec
    tasks: dict[str, Any]
    """Label -> environment config of what can be evaluated."""
    references: References
    """Scores that the data set of the run calls 0 and 1."""
    reserve: int
    """Rows that the replay will be given, where it keeps them all."""

    def describe(self) -> list[str]:
        """What was chosen."""
        ...

    def collector(self, agent: Agent, replay: Replay, generator: torch.Generator) -> AnyCollector:
        """The collector of a run."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def open_supply(config: Config, folder: Path | None) -> Supply:
    """What the config names; `folder` is that of the run, if it has one."""
    return StaticSupply(config, folder) if config.offline else LiveSupply(config, folder)


class LiveSupply:
    """Environments that are stepped by the agent."""

    def __init__(self, config: Config, folder: Path | None):
        self._config = config
        self._envs = make_vec(config.env, config.num_envs, stream_seed(config.seed, "envs"))
        self.spec = self._envs.spec
        self.tasks: dict[str, Any] = evaluations(config.env)
        record = read_record(folder)
        self.references = record.references if record else References()
        past = record.rows if record else 0
        self.reserve = past + config.steps + config.steps // 8  # an episode adds a row to its steps

    def describe(self) -> list[str]:
        """What is stepped, and how often is learned."""
        config, spec = self._config, self.spec
        batch = config.replay.batch_size * config.replay.batch_length
        return [
            f"environment {spec.name}: {config.num_envs} of them, "
            + ", ".join(f"{key} {o.kind} {o.shape}" for key, o in spec.obs.items())
            + f"; {spec.action.size} {spec.action.kind} actions; frame skip {spec.frame_skip}",
            *describe_schedule(config.env, config.steps),
            f"train ratio {config.train_ratio:g} replayed rows per agent step = "
            f"{config.updates_per_step:.4g} updates per agent step, from {batch} rows in the "
            "replay on",
        ]

    def collector(self, agent: Agent, replay: Replay, generator: torch.Generator) -> Collector:
        """It acts with the agent and writes what arrives into the replay."""
        return Collector(self._config, self._envs, agent, replay, generator)

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
