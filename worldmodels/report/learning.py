"""Ordinary runs side by side: their evaluation scores, final and best so far."""

from collections.abc import Sequence
from typing import Any

from worldmodels.report.table import RunScores
from worldmodels.report.tables import Table


def learning(runs: Sequence[RunScores]) -> dict[str, Any]:
    """One entry per run and task: its curve, the final score, the best and when it was reached."""
    return {
        "curves": [_curve(run, i) for run in runs for i in range(len(run.table.tasks))],
        "notes": [note for run in runs for note in run.notes],
    }


def _curve(run: RunScores, row: int) -> dict[str, Any]:
    """`normalised` is the final score between the environment's own anchors, None without them."""
    task, means = run.table.tasks[row], run.table.means[row]
    final, best = float(means[-1]), int(means.argmax())
    random, reference = run.random.get(task), run.reference.get(task)
    normalised = None
    if random is not None and reference is not None and reference != random:
        normalised = (final - random) / (reference - random)
    return {
        "run": run.path,
        "task": task,
        "seed": run.seed,
        "steps": run.table.steps.tolist(),
        "means": means.tolist(),
        "final": final,
        "best": float(means[best]),
        "best_step": int(run.table.steps[best]),
        "normalised": normalised,
    }


def learning_table(report: dict[str, Any]) -> Table:
    """One row per run and task."""
    return Table(
        "Evaluation scores: mean return per episode",
        "The final score is the result of a run; the best of many noisy evaluations flatters.",
        ("run", "task", "evaluations", "steps", "final", "normalised", "best", "at step"),
        [
            [
                curve["run"],
                curve["task"],
                str(len(curve["steps"])),
                str(curve["steps"][-1]),
                f"{curve['final']:.3f}",
                "-" if curve["normalised"] is None else f"{curve['normalised']:.3f}",
                f"{curve['best']:.3f}",
                str(curve["best_step"]),
            ]
            for curve in report["curves"]
        ],
    )
