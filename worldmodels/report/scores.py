"""Reads a run folder's `scores.jsonl` into its evaluation table.

Lines torn by a kill, evaluations cut short and steps at which some task was not evaluated are
passed over, each with a note; of two evaluations of a task at a step the later line counts.
"""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.config_file import read_options
from worldmodels.errors import UserError
from worldmodels.report.table import Exposure, RunScores, ScoreTable

Line = dict[str, Any]


@dataclass(frozen=True)
class _Evaluation:
    task: str
    active: str | None
    step: int
    mean: float


def read_run(folder: Path) -> RunScores:
    """The scores of a run; UserError where it holds no whole evaluation.

    Old runs name neither `task` nor `active`: their task is the environment.
    """
    options = read_options(folder / "config.yaml")
    lines, notes = _lines(folder / "scores.jsonl")
    played = [line for line in lines if line.get("kind") == "eval"]
    evaluations = [one for one in map(_evaluation, played) if one is not None]
    if len(evaluations) < len(played):
        notes.append(
            f"{folder}: {_count(len(played) - len(evaluations), 'evaluation')} passed over, cut "
            "short or without a finite mean"
        )
    if not evaluations:
        raise UserError(f"{folder} has no evaluations in scores.jsonl; train it further")
    table = _table(folder, evaluations, notes)
    notes += _switches(folder, table, [line for line in lines if line.get("kind") == "train"])
    return RunScores(
        str(folder),
        options,
        table,
        _anchors(played, "random_score"),
        _anchors(played, "reference_score"),
        tuple(notes),
    )


def _lines(path: Path) -> tuple[list[Line], list[str]]:
    """The objects of the file, and a note on lines that are none."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); it appears with the first episode of a run"
        ) from error
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    torn = len([text for text in texts if text.strip()]) - len(lines)
    return lines, [f"{path}: {_count(torn, 'torn line')} passed over"] if torn else []


def _task(line: Line) -> str:
    """Label of the task that a line is about."""
    return str(line.get("task") or line.get("env"))


def _evaluation(line: Line) -> _Evaluation | None:
    """None for one that is cut short: its short episodes would count for more than the long."""
    returns, step = line.get("returns"), line.get("step")
    episodes = line.get("episodes")
    if returns:
        if episodes is not None and len(returns) != episodes:
            return None
        values = [float("nan") if value is None else value for value in returns]
        mean = float(np.mean(values))
    else:
        mean = line.get("mean")
    if not isinstance(step, int) or not isinstance(mean, int | float) or not isfinite(mean):
        return None
    active = line.get("active")
    if "task" not in line:
        active = _task(line)
    return _Evaluation(_task(line), active, step, float(mean))


def _table(folder: Path, evaluations: list[_Evaluation], notes: list[str]) -> ScoreTable:
    """Whole evaluations of the tasks that were trained on, in order of time."""
    means = {(one.task, one.step): one.mean for one in evaluations}
    active = _active(folder, evaluations)
    tasks = tuple(dict.fromkeys(active[step] for step in sorted(active)))
    never = sorted({one.task for one in evaluations} - set(tasks))
    if never:
        last = {task: max(one.step for one in evaluations if one.task == task) for task in never}
        told = (f"{task} (last mean return {means[task, step]:.4g})" for task, step in last.items())
        notes.append(
            f"{folder}: active at no evaluation after step 0, and left out: {', '.join(told)}"
        )
    steps = [step for step in sorted(active) if all((task, step) in means for task in tasks)]
    broken = sorted(set(active) - set(steps))
    if not steps:
        raise UserError(
            f"{folder} has no step at which all its tasks ({', '.join(tasks)}) were evaluated; "
            "a report needs them side by side"
        )
    if broken:
        notes.append(
            f"{folder}: passed over, because not all tasks were evaluated there: "
            f"{'step' if len(broken) == 1 else 'steps'} {', '.join(map(str, broken))}"
        )
    left = sorted(set(tasks) - {active[step] for step in steps})
    if left:
        raise UserError(
            f"{folder} has no whole evaluation at the end of {', '.join(left)}; train it further "
            f"with `worldmodels train --resume {folder}`"
        )
    matrix = np.array([[means[task, step] for step in steps] for task in tasks])
    exposures = _exposures([tasks.index(active[step]) for step in steps])
    return ScoreTable(tasks, np.array(steps), matrix, exposures)


def _active(folder: Path, evaluations: list[_Evaluation]) -> dict[int, str]:
    """Evaluation step -> the task trained on until then; step 0 belongs to what follows it."""
    active: dict[int, str] = {}
    for one in evaluations:  # of a step evaluated twice the later lines count
        if one.active is not None:
            active[one.step] = one.active
    steps = sorted({one.step for one in evaluations})
    later = [step for step in steps if step > 0 and step in active]
    if steps[0] == 0 and (later or 0 in active):
        active[0] = active[later[0]] if later else active[0]
    unknown = [step for step in steps if step not in active]
    if unknown:
        raise UserError(
            f"{folder} does not say which task was active at step {unknown[0]}; its evaluation "
            "lines need `active`"
        )
    return active


def _exposures(active: list[int]) -> tuple[Exposure, ...]:
    """Stretches of equal rows; each begins at the column where the one before it ended."""
    exposures: list[Exposure] = []
    for column, task in enumerate(active):
        if exposures and exposures[-1].task == task:
            exposures[-1] = exposures[-1]._replace(last=column)
        else:
            exposures.append(Exposure(task, max(0, column - 1), column))
    return tuple(exposures)


def _switches(folder: Path, table: ScoreTable, training: list[Line]) -> list[str]:
    """A note where the last evaluation of an exposure came well before its end."""
    notes = []
    for e, after in zip(table.exposures, table.exposures[1:], strict=False):
        last, until = table.steps[e.last], table.steps[after.first + 1]
        task = table.tasks[e.task]
        late = [
            line["step"]
            for line in training
            if isinstance(line.get("step"), int)
            and last < line["step"] <= until
            and line.get("task") == task
        ]
        if late and max(late) - last > 0.1 * (last - table.steps[e.first]):
            notes.append(
                f"{folder}: training on {task} went on to step {max(late)} or later, its last "
                f"evaluation was at step {last}; let evaluation.every divide the steps per task"
            )
    return notes


def _anchors(played: list[Line], name: str) -> dict[str, float]:
    """Task -> the environment's own score, from the last line that knows it."""
    return {
        _task(line): float(line[name]) for line in played if isinstance(line.get(name), int | float)
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
