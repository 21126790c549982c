"""Rows from a data set: a replay that is full before the first step, and nothing after it."""

from pathlib import Path
from typing import Any

import torch

from worldmodels.config import Config
from worldmodels.envs.registry import evaluations
from worldmodels.envs.spec import EnvSpec
from worldmodels.envs.vector import make_vec
from worldmodels.errors import UserError
from worldmodels.offline.dataset import DataSet, open_dataset, spec_of
from worldmodels.offline.fill import check_capacity, check_filled, fill
from worldmodels.offline.record import read_record, record_of, write_record
from worldmodels.replay import Replay


class StaticSupply:
    """What a run learns from without an environment: the spec, and the collector that fills.

    A run `folder` that has a record was begun before; it does not need the data set any more.
    """

    def __init__(self, config: Config, folder: Path | None):
        self._config, self._folder = config, folder
        self._record = read_record(folder)
        if self._record is None:
            self._data = self.open()
        known = self._record or self._data
        recorded = self._record.spec if self._record else spec_of(self._data, config.env.name)
        self.references, self.reserve = known.references, known.rows
        made, self._absent = _spec_of_environment(config.env)
        if made:
            check_same_form(recorded, made, f"the data set {known.name}")
        self.spec = made or recorded
        self.tasks: dict[str, Any] = evaluations(config.env) if made else {}

    def open(self) -> DataSet:
        """The data set, which a resumed run finds wherever it is called from."""
        text = self._record.path if self._record else self._config.offline
        return open_dataset(text, getattr(self._config.env, "image_size", 0))

    def describe(self) -> list[str]:
        """What is learned from, and what cannot be evaluated."""
        spec, known = self.spec, self._record or self._data
        lines = [
            f"data set {known.name} ({known.kind}, {known.path}): {known.rows} rows, "
            + ", ".join(f"{key} {o.kind} {o.shape}" for key, o in spec.obs.items())
            + f"; {spec.action.size} {spec.action.kind} actions; one update per step, no "
            "environment is stepped"
        ]
        if self._absent:
            lines.append(
                f"nothing is evaluated, because the environment {spec.name} cannot be made here: "
                f"{self._absent}"
            )
        return lines

    def collector(
        self, agent: Any, replay: Replay, generator: torch.Generator
    ) -> "StaticCollector":
        """It acts in nothing, so that agent and generator are left alone."""
        del agent, generator
        return StaticCollector(self, replay)

    def fill(self, replay: Replay) -> list[str]:
        """Put the data set into an empty replay, note it in the run's folder, say what was done."""
        options = self._config.replay
        data = self.open()
        check_capacity(data, options.retention, options.capacity)
        rows, episodes = fill(replay, data)
        told = check_filled(replay, data, rows, (options.batch_size, options.batch_length))
        if self._folder:
            write_record(self._folder, record_of(data, self.spec.name, rows, episodes))
        return told

    def close(self) -> None:
        """Nothing is open."""


class StaticCollector:
    """Collects nothing: every call is one step of a schedule of updates."""

    def __init__(self, supply: StaticSupply, replay: Replay):
        self._supply, self._replay = supply, replay

    def start(self) -> list[str]:
        """Fill the replay before the first step; what is to be told of it."""
        return self._supply.fill(self._replay)

    def collect(self) -> tuple[int, list[dict[str, Any]]]:
        """One step that adds no row."""
        return 1, []

    def save(self, folder: Path) -> dict[str, Any]:
        """Nothing decides the next row, because none comes."""
        del folder
        return {}

    def load(self, folder: Path, state: dict[str, Any], step: int) -> list[str]:
        """Inverse of `save`."""
        del folder, state, step
        return []


def _spec_of_environment(env: Any) -> tuple[EnvSpec | None, str]:
    """Its spec, or why it cannot be made."""
    try:
        envs = make_vec(env, 1, seed=0)
    except UserError as error:
        return None, str(error)
    envs.close()
    return envs.spec, ""


def check_same_form(recorded: EnvSpec, made: EnvSpec, source: str) -> None:
    """UserError unless observations and actions of `source` are those of the environment."""
    for what in ("obs", "action"):
        theirs, ours = getattr(recorded, what), getattr(made, what)
        if theirs != ours:
            raise UserError(
                f"{source} does not fit {made.name}: it has {_form(theirs)}, the environment "
                f"{_form(ours)}; name the environment that it was recorded in, with its options"
            )


def _form(part: Any) -> str:
    """Observations or actions in a few words."""
    if isinstance(part, dict):
        return ", ".join(f"{key} {obs.kind} {obs.shape}" for key, obs in part.items())
    return f"{part.size} {part.kind} actions"
