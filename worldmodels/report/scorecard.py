"""Every number of one continual run: the metrics by name, with their terms per task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.report import continual as metric
from worldmodels.report.references import Curve, Normaliser
from worldmodels.report.table import ScoreTable
from worldmodels.report.transfer import Transfer


@dataclass(frozen=True)
class Metric:
    """A column of the report."""

    name: str
    """Key in metrics.json."""
    label: str
    """Heading."""
    higher: bool
    """Whether higher is better."""
    group: str
    """Table that it stands in."""


METRICS = (
    Metric("acc", "ACC", True, "remembering"),
    Metric("forgetting", "F", False, "remembering"),
    Metric("backward_transfer", "BWT", True, "remembering"),
    Metric("min_acc", "min-ACC", True, "remembering"),
    Metric("worst_case_acc", "WC-ACC", True, "remembering"),
    Metric("plasticity", "plasticity", True, "learning"),
    Metric("forward_transfer", "FT", True, "learning"),
    Metric("forward_transfer_relative", "FT relative", True, "learning"),
    Metric("forward_transfer_aligned", "FT aligned", True, "learning"),
    Metric("forgetting_smoothed", "F smoothed", False, "learning"),
    Metric("forgetting_cycle_1", "F cycle 1", False, "cycles"),
    Metric("forgetting_cycle_2", "F cycle 2", False, "cycles"),
    Metric("forward_transfer_relative_cycle_2", "FT relative 2", True, "cycles"),
    Metric("maximum_forgetting", "Max-F", False, "cycles"),
    Metric("recovery", "Recovery", True, "cycles"),
)
"""In order of printing."""


@dataclass(frozen=True)
class Scorecard:
    """The metrics of one run."""

    values: dict[str, float | None]
    """Metric -> value; None where it is not defined."""
    terms: dict[str, dict[str, float]]
    """Metric -> task -> its term, where the metric is a mean over tasks."""
    details: dict[str, Any]
    """What is no single number: ACC, min-ACC and WC-ACC by exposure, CORA's matrices."""
    notes: tuple[str, ...]
    """Why a metric is not defined, where a denominator is the reason."""


def score(table: ScoreTable, normaliser: Normaliser, curves: dict[str, Curve]) -> Scorecard:
    """All metrics of a run; without single-task curves of every task, no forward transfer."""
    q, exposures = normaliser(table.means), table.exposures
    low = metric.minimum_accuracy(q, exposures)
    by_exposure = {
        "acc": metric.accuracy(q, exposures).tolist(),
        "min_acc": low,
        "worst_case_acc": metric.worst_case_accuracy(q, exposures).tolist(),
    }
    values: dict[str, float | None] = dict.fromkeys(one.name for one in METRICS)
    values |= {name: row[-1] for name, row in by_exposure.items()}
    values["backward_transfer"] = metric.backward_transfer(q, exposures)
    terms: dict[str, dict[str, float]] = {}
    notes = []
    for name, compute in _terms(table, q, normaliser, curves).items():
        try:
            found = compute()
        except UserError as error:
            notes.append(f"{name} is not defined: {error}")
            continue
        if found is not None:
            terms[name] = dict(zip(table.tasks, map(float, found), strict=True))
            values[name] = float(np.mean(found))
    ends = {e.task: e.last for e in exposures}
    details = {
        "by_exposure": by_exposure,
        "average_performance": metric.average_performance(q).tolist(),
        "after_training": {task: float(q[i, ends[i]]) for i, task in enumerate(table.tasks)},
        "at_the_end": {task: float(q[i, -1]) for i, task in enumerate(table.tasks)},
        "isolated_forgetting": _matrix(metric.isolated_forgetting(q, exposures)),
        "zero_shot_transfer": _matrix(metric.zero_shot_transfer(q, exposures)),
    }
    return Scorecard(values, terms, details, tuple(notes))


def _terms(
    table: ScoreTable, q: np.ndarray, normaliser: Normaliser, curves: dict[str, Curve]
) -> dict[str, Callable[[], np.ndarray | None]]:
    """Metric -> what computes its terms [T]; None where the stream does not define it."""
    exposures, tasks = table.exposures, table.tasks
    found: dict[str, Callable[[], np.ndarray | None]] = {
        "forgetting": lambda: metric.forgetting(q, exposures),
        "forgetting_smoothed": lambda: metric.smoothed_forgetting(q, exposures),
        "plasticity": lambda: metric.plasticity(q, exposures),
    }
    alone = all(task in curves for task in tasks)
    if alone:
        first = Transfer(table, normaliser, curves)
        found["forward_transfer"] = first.auc
        found["forward_transfer_relative"] = first.relative
        found["forward_transfer_aligned"] = first.aligned
    if len(metric.by_cycle(exposures)) > 1:
        lost = metric.cycle_forgetting(q, exposures)
        found["forgetting_cycle_1"] = lambda: lost[0]
        found["forgetting_cycle_2"] = lambda: lost[1]
        found["maximum_forgetting"] = lambda: metric.maximum_forgetting(q, exposures)
        found["recovery"] = lambda: metric.recovery(q, exposures, tasks)
        if alone:
            again = Transfer(table, normaliser, curves, 1)  # 1 - AUC_ref is about 0 by then
            found["forward_transfer_relative_cycle_2"] = again.relative
    return found


def _matrix(values: np.ndarray) -> list[list[float | None]]:
    """Rows of numbers; None where a matrix has no entry, since JSON has no NaN."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]
