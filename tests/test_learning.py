"""Learning is proven by runs (minutes each): Catch is learnt, and an old task is not forgotten."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from worldmodels.agent import Agent
from worldmodels.dream import dream
from worldmodels.presets import load_config
from worldmodels.registry import backbone_names
from worldmodels.trainer import train

pytestmark = pytest.mark.slow


def final_mean(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    return rows[-1]["mean"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns_catch_and_its_dynamics(seed: int, tmp_path: Path):
    run = train(replace(load_config("catch", ["demo"]), seed=seed), tmp_path / "run")
    assert final_mean(run) >= 0.9
    told = dream(Agent.load(run), tmp_path / "dream.png", context=4, horizon=12, episodes=20)
    assert told["error"] < 0.1 * told["copy_error"]


@pytest.mark.parametrize(
    ("backbone", "posterior"), [*product(backbone_names(), ["x"]), ("gru", "hx"), ("hybrid", "hx")]
)
def test_every_backbone_and_posterior_learns_catch(backbone: str, posterior: str, tmp_path: Path):
    config = load_config("catch", ["demo"], backbone=backbone)
    config = replace(config, world_model=replace(config.world_model, posterior=posterior))
    assert final_mean(train(config, tmp_path / "run")) >= 0.9


def test_wmar_keeps_a_task_that_a_fifo_of_the_same_size_forgets(tmp_path: Path):
    """The short form of experiments/continual_small: one seed, to a quarter of its third task."""
    left = {}
    for retention in ("fifo", "wmar"):
        config = load_config("continual:catch", replay={"retention": retention})
        steps = 9 * config.env.steps_per_task // 4
        config = replace(config, steps=steps, device="cpu", threads=1)
        rows = (train(config, tmp_path / retention) / "scores.jsonl").read_text().splitlines()
        told = [row for row in map(json.loads, rows) if row["kind"] == "eval"]
        first = {row["step"]: row["mean"] for row in told if row["task"] == "upright"}
        assert first[config.env.steps_per_task] >= 0.8
        left[retention] = first[max(first)]
    assert left["wmar"] >= 0.6
    assert left["fifo"] <= 0.2
