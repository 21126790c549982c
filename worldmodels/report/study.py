"""Several continual runs side by side: grouped by method, summarised over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from worldmodels.errors import UserError, near
from worldmodels.report.references import Normaliser, choose_normaliser, single_task_curves
from worldmodels.report.scorecard import METRICS, Scorecard, score
from worldmodels.report.seeds import summarise
from worldmodels.report.table import RunScores

GROUP_BY = ("replay.retention",)
ABSENT = {"replay.retention": "fifo"}
"""What an option meant before there was a choice."""


def compare(
    runs: Sequence[RunScores], alone: Sequence[RunScores], group_by: Sequence[str] = GROUP_BY
) -> dict[str, Any]:
    """The whole report as plain data, what metrics.json holds.

    `alone` are the single-task runs. UserError where the runs do not agree on tasks and their
    order, or where their scores cannot be normalised.
    """
    _check(runs)
    curves = single_task_curves(alone)
    normaliser, notes = choose_normaliser(runs, curves)
    tasks = runs[0].table.tasks
    if any(task not in curves for task in tasks):
        curves = {}
    groups: dict[str, list[RunScores]] = {}
    for run in runs:
        groups.setdefault(method(run, group_by), []).append(run)
    _check_options(runs, group_by)
    cards = {run.path: score(run.table, normaliser, curves) for run in runs}
    notes = [*notes, *_notes(runs, alone, groups, cards, group_by)]
    return {
        "group_by": list(group_by),
        "tasks": list(tasks),
        "order": list(runs[0].table.order),
        "normaliser": _anchors(normaliser, alone),
        "metrics": [asdict(one) for one in METRICS],
        "methods": {
            name: _method(members, [cards[run.path] for run in members], normaliser)
            for name, members in sorted(groups.items())
        },
        "notes": notes,
    }


def method(run: RunScores, group_by: Sequence[str]) -> str:
    """The name that a run's method goes by: the values of the options that tell it."""
    parts = []
    for option in group_by:
        value = _option(run.options, option)
        value = ABSENT.get(option) if value is None else value
        if isinstance(value, str):
            parts.append(value)
        else:
            parts.append(f"{option} {'-' if value is None else value}")
    return ", ".join(parts)


def _option(options: Mapping[str, Any], name: str) -> Any:
    """A dotted option's value, a named block's name, or None."""
    value: Any = options
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value.get("name") if isinstance(value, Mapping) else value


def _check(runs: Sequence[RunScores]) -> None:
    """All runs are continual ones, from step 0 on, over the same tasks in the same order."""
    first = runs[0]
    for run in runs:
        if run.table.steps[0] != 0:
            raise UserError(
                f"{run.path} has no whole evaluation at step 0, where every curve of a report "
                "begins"
            )
        if run.table.order != first.table.order:
            raise UserError(
                f"{run.path} trained on {' > '.join(run.table.order)} and {first.path} on "
                f"{' > '.join(first.table.order)}; a report needs the same tasks in the same "
                "order (an unfinished run: resume it; a single-task run: give it after "
                "--single-task)"
            )


def _check_options(runs: Sequence[RunScores], group_by: Sequence[str]) -> None:
    for option in group_by:
        if option not in ABSENT and all(_option(run.options, option) is None for run in runs):
            names = {name for run in runs for name in _names(run.options)}
            raise UserError(
                f"--group-by {option}: no run has such an option{near(option, sorted(names))}"
            )


def _names(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in options.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += _names(value, f"{prefix}{key}.")
    return found


def _anchors(normaliser: Normaliser, alone: Sequence[RunScores]) -> dict[str, Any]:
    return {
        "source": normaliser.source,
        "units": "mean raw return per episode",
        "random": dict(zip(normaliser.tasks, normaliser.random.tolist(), strict=True)),
        "reference": dict(zip(normaliser.tasks, normaliser.reference.tolist(), strict=True)),
        "single_task_runs": [run.path for run in alone],
    }


def _method(
    runs: list[RunScores], cards: list[Scorecard], normaliser: Normaliser
) -> dict[str, Any]:
    """One method: its runs, and what they say together."""
    tasks = normaliser.tasks
    return {
        "runs": [
            {"path": run.path, "seed": run.seed, "steps": int(run.table.steps[-1])}
            | {"values": card.values, "terms": card.terms, **card.details}
            for run, card in zip(runs, cards, strict=True)
        ],
        "summary": {
            one.name: _together([card.values[one.name] for card in cards]) for one in METRICS
        },
        "terms": {
            one.name: {
                task: _together([card.terms.get(one.name, {}).get(task) for card in cards])
                for task in tasks
            }
            for one in METRICS
            if any(one.name in card.terms for card in cards)
        },
        "scores": {
            when: {task: _together([card.details[when][task] for card in cards]) for task in tasks}
            for when in ("after_training", "at_the_end")
        },
        "curves": _curves(runs, normaliser),
    }


def _together(values: Sequence[float | None]) -> dict[str, Any] | None:
    """None where one seed does not define the number: a median of the others would flatter."""
    known = [value for value in values if value is not None]
    return summarise(known) if len(known) == len(values) else None


def _curves(runs: list[RunScores], normaliser: Normaliser) -> dict[str, Any]:
    """Normalised scores [T][N] over the seeds, at the steps where all of them were evaluated."""
    steps = runs[0].table.steps
    for run in runs[1:]:
        steps = np.intersect1d(steps, run.table.steps)
    q = [normaliser(run.table.means[:, np.isin(run.table.steps, steps)]) for run in runs]
    low, middle, high = np.quantile(q, (0.25, 0.5, 0.75), axis=0)
    return {
        "steps": steps.tolist(),
        "median": middle.tolist(),
        "q25": low.tolist(),
        "q75": high.tolist(),
        "exposures": [
            {
                "task": normaliser.tasks[e.task],
                "first": int(runs[0].table.steps[e.first]),
                "last": int(runs[0].table.steps[e.last]),
            }
            for e in runs[0].table.exposures
        ],
    }


def _notes(
    runs: Sequence[RunScores],
    alone: Sequence[RunScores],
    groups: dict[str, list[RunScores]],
    cards: dict[str, Scorecard],
    group_by: Sequence[str],
) -> list[str]:
    """What a reader has to know before believing the numbers, each once."""
    notes = [note for run in [*runs, *alone] for note in run.notes]
    for name, members in groups.items():
        seeds = [run.seed for run in members if run.seed is not None]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            notes.append(f"{name}: several runs with seed {', '.join(map(str, twice))}")
    notes += _unequal(runs)
    methods = sorted({method(run, group_by) for run in alone})
    if len(methods) > 1:
        notes.append(f"The single-task runs of {', '.join(methods)} are averaged together.")
    for note in dict.fromkeys(note for run in runs for note in cards[run.path].notes):
        same = [run.path for run in runs if note in cards[run.path].notes]
        others = f" and {len(same) - 1} more" if same[1:] else ""
        notes.append(f"{same[0]}{others}: {note}")
    return notes


def _unequal(runs: Sequence[RunScores]) -> list[str]:
    """Exposures that do not end at the same steps in all runs."""
    ends: dict[str, str] = {}
    for run in runs:
        last = [str(run.table.steps[e.last]) for e in run.table.exposures]
        ends.setdefault(", ".join(last), run.path)
    if len(ends) == 1:
        return []
    told = "; ".join(f"{path} at {steps}" for steps, path in ends.items())
    return [f"The last evaluations of the tasks are not at the same steps in all runs: {told}"]
