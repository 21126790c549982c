"""Quality levels of a run, after D4RL (Fu et al. 2020, arXiv 2004.07219): which policy, which rows.

`expert` is the last checkpoint, `medium` the one whose score is about a third of the way from
random play to the last score, `replay` what the replay held when `medium` was saved.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.checkpoint import read_checkpoint
from worldmodels.replay.folder import ReplayFolder
from worldmodels.replay.recorded import Recorded
from worldmodels.replay.segment import LANE_SHIFT
from worldmodels.runtime.checkpoint import Checkpoints, step_of

THIRD, SPAN = 1 / 3, 1 / 6
"""Of the way from random play to the last score: where `medium` is, and how far off it may be."""
WINDOW = 50
"""Training episodes, before and after, that score a step at which nothing was evaluated."""
FIRST = 20
"""Training episodes that stand for random play, where nobody knows its score."""


@dataclass(frozen=True)
class Scores:
    """What a run's scores.jsonl tells of its returns."""

    evaluated: dict[int, float]
    """Step -> mean return, over all tasks."""
    trained: list[tuple[int, float]]
    """Step and return of every training episode."""

    def at(self, step: int) -> float | None:
        """The mean return about a step; None where nothing is known of it."""
        if step in self.evaluated:
            return self.evaluated[step]
        near = sorted(self.trained, key=lambda episode: abs(episode[0] - step))[:WINDOW]
        return float(np.mean([value for _, value in near])) if near else None


@dataclass(frozen=True)
class Medium:
    """The checkpoint that stands for a policy of a third of the score."""

    path: Path
    score: float
    low: float
    high: float

    @property
    def step(self) -> int:
        """Its agent step."""
        return step_of(self.path)


def find_medium(run: Path, random_score: float | None) -> Medium:
    """The checkpoint whose score is nearest to a third; UserError where none is near.

    `random_score` is the environment's, if known; else the first training episodes stand for it.
    """
    scores, paths = read_scores(run), Checkpoints(run / "checkpoints").steps()
    known = [(path, value) for path in paths if (value := scores.at(step_of(path))) is not None]
    if not known:
        raise UserError(f"{run} has no checkpoint whose score is known; train it further")
    first = [value for _, value in scores.trained[:FIRST]]
    low = random_score if random_score is not None else float(np.mean(first)) if first else None
    high = known[-1][1]
    if low is None or high <= low:
        raise UserError(
            f"{run} scored {high:.3f} in the end, which is not above random play "
            f"({'unknown' if low is None else f'{low:.3f}'}): it has no medium level"
        )
    target = low + THIRD * (high - low)
    path, score = min(known, key=lambda one: abs(one[1] - target))
    if abs(score - target) > SPAN * (high - low):
        have = ", ".join(f"{step_of(path)}: {value:.3f}" for path, value in known)
        raise UserError(
            f"{run} kept no checkpoint of about a third of its last score, {target:.3f} (there are "
            f"{have}); train with more of them, as --checkpoint.minutes 0.5 --checkpoint.keep 100"
        )
    return Medium(path, score, low, high)


def read_scores(run: Path) -> Scores:
    """The evaluations and training episodes of a run; lines that a kill tore are passed over."""
    evaluated: dict[int, dict[str, float]] = {}
    trained: list[tuple[int, float]] = []
    for line in _lines(run / "scores.jsonl"):
        match line:
            case {"kind": "eval", "step": int(step), "mean": int() | float() as mean}:
                evaluated.setdefault(step, {})[str(line.get("task"))] = mean
            case {"kind": "train", "step": int(step), "return": int() | float() as value}:
                trained.append((step, value))
    means = {step: float(np.mean([*tasks.values()])) for step, tasks in evaluated.items()}
    return Scores(means, trained)


def _lines(path: Path) -> Iterator[Any]:
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), which tells a run's levels apart"
        ) from error
    for text in texts:
        try:
            yield json.loads(text)
        except ValueError:
            continue


class Buffer:
    """The whole episodes that a run's replay held at a checkpoint, as far as it still does."""

    def __init__(self, run: Path, checkpoint: Path):
        self._folder = ReplayFolder(run)
        self._ends: list[int] = read_checkpoint(checkpoint / "replay")["store"]["next_id"]
        """Id of the first row of every lane that came later."""

    @property
    def spec(self) -> Any:
        """What its rows hold."""
        return self._folder.layout.spec

    def __iter__(self) -> Iterator[Recorded]:
        for episode in self._folder.episodes():
            if episode.first + len(episode) <= self._ends[episode.first >> LANE_SHIFT]:
                yield episode

    def draw(self, count: int, random: np.random.Generator) -> Iterator[Recorded]:
        """`count` different ones in the order of their ids, each as likely as any other."""
        held = sum(1 for _ in self)
        if count > held:
            raise UserError(
                f"{self._folder.path} holds {held} whole episodes from before the medium "
                f"checkpoint, not {count}; lower --episodes"
            )
        chosen = set(random.choice(held, count, replace=False).tolist())
        return (episode for number, episode in enumerate(self) if number in chosen)
