"""What raw returns are measured against: single-task runs, or the environments' own anchors."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from worldmodels.errors import UserError
from worldmodels.report.table import RunScores


@dataclass(frozen=True)
class Curve:
    """Single-task training on one task, the mean over its seeds; raw returns."""

    task: str
    steps: np.ndarray
    """int [N], evaluations that all seeds share, from step 0 on."""
    means: np.ndarray
    """float [N]."""
    runs: tuple[str, ...]
    """The run folders."""

    def at(self, times: np.ndarray) -> np.ndarray:
        """Returns after `times` [M] steps on the task, linear between evaluations.

        Raises UserError where the runs are too short for the last of them by more than a twentieth.
        """
        if self.steps[-1] < 0.95 * times[-1]:
            raise UserError(
                f"forward transfer on {self.task} needs a single-task run of {times[-1]} steps, "
                f"and {self.runs[0]} has {self.steps[-1]}: train it for longer"
            )
        return np.interp(times, self.steps, self.means)


@dataclass(frozen=True)
class Normaliser:
    """q = (p - random) / (reference - random): raw mean returns in, normalised scores out.

    Both anchors are raw returns too: scaled rewards never meet unscaled ones. Source: ARROW
    (arXiv 2603.11395), equation 1, with the single-task run's final score as the reference.
    Raises UserError where a reference is not above its random score.
    """

    tasks: tuple[str, ...]
    random: np.ndarray
    """float [T], raw."""
    reference: np.ndarray
    """float [T], raw."""
    source: str
    """Where the anchors come from, for the reader."""

    def __post_init__(self):
        scale = np.maximum(1e-9, np.maximum(np.abs(self.random), np.abs(self.reference)))
        for i, task in enumerate(self.tasks):
            if (self.reference[i] - self.random[i]) / scale[i] < 1e-9:
                raise UserError(
                    f"scores of {task} cannot be normalised: the reference "
                    f"{self.reference[i]:.6g} ({self.source}) is not above the random score "
                    f"{self.random[i]:.6g}; train the single-task run for longer"
                )

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Normalise raw mean returns [T, ...], one row per task."""
        if len(raw) != len(self.tasks):
            raise ValueError(f"{len(raw)} rows for {len(self.tasks)} tasks")
        return np.stack([self.one(i, row) for i, row in enumerate(raw)])

    def one(self, task: int, raw: np.ndarray) -> np.ndarray:
        """Normalise raw mean returns of the task in row `task`."""
        return (raw - self.random[task]) / (self.reference[task] - self.random[task])


def single_task_curves(runs: Sequence[RunScores]) -> dict[str, Curve]:
    """Task -> the mean curve over the seeds that were trained on it alone."""
    of_task: dict[str, list[RunScores]] = {}
    for run in runs:
        if len(run.table.tasks) != 1:
            raise UserError(
                f"{run.path} is no single-task run: it was trained on "
                f"{', '.join(run.table.tasks)}; give it after --continual"
            )
        of_task.setdefault(run.table.tasks[0], []).append(run)
    return {task: _mean_curve(task, seeds) for task, seeds in of_task.items()}


def _mean_curve(task: str, runs: list[RunScores]) -> Curve:
    steps = reduce(np.intersect1d, [run.table.steps for run in runs])
    paths = tuple(run.path for run in runs)
    if len(steps) < 2:
        raise UserError(
            f"the single-task runs of {task} ({', '.join(paths)}) have fewer than two evaluations "
            "at the same steps; train them with one --evaluation.every"
        )
    rows = [run.table.means[0, np.isin(run.table.steps, steps)] for run in runs]
    return Curve(task, steps, np.mean(rows, 0), paths)


def choose_normaliser(
    runs: Sequence[RunScores], curves: dict[str, Curve]
) -> tuple[Normaliser, tuple[str, ...]]:
    """The anchors of the tasks of `runs`, which agree on them, and notes on the choice.

    The single-task runs where every task has one; else the environments' own scores where every
    task has a reference; else UserError with the command that makes the runs.
    """
    tasks = runs[0].table.tasks
    missing = [task for task in tasks if task not in curves]
    own_random, own_reference = _own(runs, "random"), _own(runs, "reference")
    start = np.mean([run.table.means[:, 0] for run in runs], 0)
    early = {task: own_random.get(task, float(start[i])) for i, task in enumerate(tasks)}
    if not missing:
        random = [_first(curves[task], float(start[i])) for i, task in enumerate(tasks)]
        final = [curves[task].means[-1] for task in tasks]
        return Normaliser(tasks, np.array(random), np.array(final), "single-task runs"), ()
    advice = _advice(runs[0].env, missing)
    if any(task not in own_reference for task in tasks):
        raise UserError(f"no single-task run of {', '.join(missing)} to normalise by: {advice}")
    normaliser = Normaliser(
        tasks,
        np.array([early[task] for task in tasks]),
        np.array([own_reference[task] for task in tasks]),
        "the environment's own scores",
    )
    return normaliser, (
        f"No single-task run of {', '.join(missing)}: scores are normalised by the environments' "
        f"own random and reference scores, and there is no forward transfer. For it, {advice}.",
    )


def _first(curve: Curve, start: float) -> float:
    """Random play: the single-task run at step 0, or the streams' mean there."""
    return float(curve.means[0]) if curve.steps[0] == 0 else start


def _own(runs: Sequence[RunScores], kind: str) -> dict[str, float]:
    """Task -> the environment's anchor; runs that disagree were written in different units."""
    found: dict[str, tuple[float, str]] = {}
    for run in runs:
        for task, value in getattr(run, kind).items():
            before, path = found.setdefault(task, (value, run.path))
            if not np.isclose(before, value):
                raise UserError(
                    f"{path} and {run.path} disagree on the {kind} score of {task} ({before:g} and "
                    f"{value:g}): their returns are in different units; report them apart"
                )
    return {task: value for task, (value, _) in found.items()}


def _advice(env: str, missing: list[str]) -> str:
    command = shlex.join(["worldmodels", "train", env, "--env.task", missing[0]])
    others = f" (and so for {', '.join(missing[1:])})" if missing[1:] else ""
    return f"run `{command}`{others} and give the run folders after --single-task"
