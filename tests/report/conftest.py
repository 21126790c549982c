"""Run folders made up for tests: what a stream of tasks writes into `scores.jsonl`."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

TASKS = ("plain", "moved", "mirrored")


def write_run(folder: Path, rows, *, seed=0, retention=None, env="continual:small", extra=()):
    """A run folder with the lines `rows`, and the raw texts `extra` after them."""
    folder.mkdir(parents=True)
    replay = {"capacity": 1000} | ({"retention": retention} if retention else {})
    options = {"env": {"name": env}, "seed": seed, "replay": replay, "backbone": {"name": "gru"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    lines = [json.dumps(row) for row in rows] + list(extra)
    (folder / "scores.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def evaluation(step, task, active, mean, *, random=None, reference=None, episodes=2):
    """One evaluation line; its returns lie around the mean."""
    returns = (mean + np.linspace(-1, 1, episodes)).tolist()
    return {
        "kind": "eval",
        "env": "continual:small",
        "step": step,
        "task": task,
        "active": active,
        "mean": mean,
        "returns": returns,
        "episodes": episodes,
        "random_score": random,
        "reference_score": reference,
        "seed": 17,
    }


def rows_of(means, order, *, every=100, per_exposure=1, tasks=None, **anchors):
    """Lines of a table `means` [T, 1 + per_exposure * len(order)]; step 0 is its first column."""
    tasks = list(dict.fromkeys(order)) if tasks is None else tasks
    rows = []
    for column in range(np.shape(means)[1]):
        active = order[max(0, column - 1) // per_exposure]
        for i, task in enumerate(tasks):
            rows.append(evaluation(column * every, task, active, means[i][column], **anchors))
    return rows


def learning_curves(random, order=TASKS, points=10, forgets=0.8, cycles=1, scale=10.0):
    """Plausible raw means [T, 1 + points * exposures] of an agent that forgets at that rate."""
    order = list(order) * cycles
    tasks = list(dict.fromkeys(order))
    level = np.zeros(len(tasks))
    columns = [level.copy()]
    for task in order:
        for _ in range(points):
            now = tasks.index(task)
            decay = np.full(len(tasks), 1 - forgets / points * 2.5)
            decay[now] = 1.0
            level = level * decay
            level[now] += (1 - level[now]) * 0.35
            columns.append(level + random.normal(0, 0.04, len(tasks)))
    return scale * np.array(columns).T, order


def write_study(root: Path, *, seeds=5, cycles=1, points=10):
    """`root/stream` with fifo and wmar runs, `root/alone` with single-task runs of every task."""
    for retention, forgets in (("fifo", 0.8), ("wmar", 0.1)):
        for seed in range(seeds):
            random = np.random.default_rng([seed, len(retention), int(10 * forgets)])
            means, order = learning_curves(random, forgets=forgets, cycles=cycles, points=points)
            rows = rows_of(means, order, every=1000, per_exposure=points)
            folder = root / "stream" / f"{retention}-{seed}"
            write_run(folder, rows, seed=seed, retention=retention)
    for task in TASKS:
        for seed in range(2):
            random = np.random.default_rng([seed, len(task)])
            means, order = learning_curves(random, (task,), points * cycles)
            rows = rows_of(means, order, every=1000, per_exposure=points * cycles)
            write_run(root / "alone" / f"{task}-{seed}", rows, seed=seed)


@pytest.fixture
def streams() -> SimpleNamespace:
    """The functions above; test files cannot import a conftest."""
    return SimpleNamespace(
        tasks=TASKS,
        write_run=write_run,
        evaluation=evaluation,
        rows_of=rows_of,
        write_study=write_study,
    )
