"""The evaluation table of one run: what every number of a report is computed from."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Exposure(NamedTuple):
    """A stretch of training on one task; its evaluations are the columns first+1 ... last."""

    task: int
    """Row of the table."""
    first: int
    """Column of the last evaluation before it: step 0, or the end of the exposure before."""
    last: int
    """Column of the last evaluation in it."""


@dataclass(frozen=True)
class ScoreTable:
    """Mean raw returns of T tasks at N evaluations, all of them complete."""

    tasks: tuple[str, ...]
    """Labels in order of their first training."""
    steps: np.ndarray
    """int [N], agent steps, increasing."""
    means: np.ndarray
    """float [T, N], mean raw return per episode, in the environment's own units."""
    exposures: tuple[Exposure, ...]
    """In order of time; a task comes again in every cycle."""

    @property
    def order(self) -> tuple[str, ...]:
        """The tasks as they were trained on, one label per exposure."""
        return tuple(self.tasks[exposure.task] for exposure in self.exposures)


@dataclass(frozen=True)
class RunScores:
    """A run folder, as far as a report reads it."""

    path: str
    options: dict[str, Any]
    """What config.yaml holds, unchecked."""
    table: ScoreTable
    random: dict[str, float]
    """Task -> the environment's own score of random play, raw; where it is known."""
    reference: dict[str, float]
    """Task -> the environment's own reference score, raw; where it is known."""
    notes: tuple[str, ...]
    """What was passed over, one sentence each."""

    @property
    def env(self) -> str:
        """Name of the environment that the run was started with."""
        block = self.options.get("env")
        return str(block.get("name")) if isinstance(block, dict) else "?"

    @property
    def seed(self) -> Any:
        """Seed of the run, None where config.yaml does not tell."""
        return self.options.get("seed")
