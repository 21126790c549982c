"""A killed run goes on as if nothing had happened: real processes, real SIGKILL."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldmodels.runtime.checkpoint import Checkpoints, step_of

SMALL = [
    *["--world-model.units", "16", "--world-model.layers", "2", "--replay.batch-size", "32"],
    *["--actor-critic.units", "16", "--actor-critic.batch", "32", "--actor-critic.starts", "10"],
    *["--actor-critic.retain", "20", "--train-ratio", "64", "--replay.capacity", "256"],
    *["--replay.segment", "16", "--evaluation.episodes", "2", "--log.no-tensorboard"],
]
PARALLEL = ["--backbone", "hybrid", "--world-model.posterior", "x", "--actor-critic.starts", "8"]
RUNS = {
    # Episodes of 10 rows: many ends; two environments.
    "catch": ["catch", "--steps", "400", "--num-envs", "2"],
    # The same with scans and caches as model states, burn-in and drawn starts.
    "catch, parallel": ["catch", *PARALLEL, "--steps", "240", "--num-envs", "2"],
    # Three tasks, each cut in mid-episode; imagination counts what it drew.
    "continual:catch": [
        *["continual:catch", "--env.steps-per-task", "100", "--env.order", "reversed"],
        *["--actor-critic.context", "3", "--actor-critic.starts", "6"],
        *["--steps", "300", "--num-envs", "2", "--replay.sampling", "dfs"],
    ],
    # Hundreds of rows an episode: every kill is in mid-episode; sticky actions draw randomly.
    "atari:Pong": ["atari:Pong", "--steps", "120", "--num-envs", "1", "--env.sticky", "0.25"],
    # A ring that wraps, elites, statistics, the optimiser's groups; episodes of 30 rows.
    "gym:Pendulum-v1": [
        *["gym:Pendulum-v1", *SMALL, "--steps", "240", "--env.max-steps", "30"],
        *["--preset", "ravl-mbpo"],
    ],
}


def command(kind: str, run: Path) -> list[str]:
    return [
        *[sys.executable, "-m", "worldmodels", "train", *RUNS[kind]],
        *([] if "--preset" in RUNS[kind] else ["--preset", "debug"]),
        *["--deterministic", "--threads", "1", "--checkpoint.minutes", "0.005"],
        *["--log.every", "20", "--evaluation.every", "60", "--run", str(run)],
    ]


def resume(run: Path) -> list[str]:
    return [sys.executable, "-m", "worldmodels", "train", "--resume", str(run)]


def lines(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def start(args: list[str]) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def wait_for_checkpoint(run: Path, process: subprocess.Popen, newer_than: int = 0) -> None:
    """Until a checkpoint past `newer_than` steps is there."""
    while process.poll() is None:
        if newest(run) > newer_than:
            return
        time.sleep(0.01)


def newest(run: Path) -> int:
    return max(map(step_of, Checkpoints(run / "checkpoints").steps()), default=0)


SLOW = {"gym:Pendulum-v1"}
"""Told in seconds by tests/control/test_run.py, without processes."""


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in RUNS]
)
def test_killed_and_resumed_equals_never_killed(kind: str, tmp_path: Path):
    whole = start(command(kind, tmp_path / "whole"))
    killed = tmp_path / "killed"
    process, kills = start(command(kind, killed)), 0
    for _ in range(2):
        wait_for_checkpoint(killed, process, newest(killed))
        time.sleep(random.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        process = start(resume(killed))
    told = process.communicate()[0]
    assert process.returncode == 0, told
    assert whole.communicate()[0] is not None
    assert whole.returncode == 0
    assert kills > 0, "the run ended before it could be killed"
    for name in ("metrics.jsonl", "scores.jsonl"):
        assert lines(killed / name) == lines(tmp_path / "whole" / name)
    assert len(lines(killed / "metrics.jsonl")) >= 6


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path):
    run = tmp_path / "run"
    process = start([*command("catch", run), "--steps", "100000"])
    wait_for_checkpoint(run, process)
    before = newest(run)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 130, told
    assert f"worldmodels train --resume {run}" in told
    assert "Traceback" not in told
    assert newest(run) >= before
    assert json.loads((run / "status.json").read_text())["status"] == "stopped"


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path):
    run = tmp_path / "run"
    first = start([*command("catch", run), "--steps", "100000"])
    wait_for_checkpoint(run, first)
    second = start(resume(run))
    told = second.communicate(timeout=60)[0]
    assert second.returncode == 2
    assert "another process is training" in told
    assert first.poll() is None, "the first run must not notice"
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
