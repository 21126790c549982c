"""Training on a stream of tasks: its lines of scores, its evaluations, its run folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodels import evaluation
from worldmodels.agent import Agent
from worldmodels.config import Config
from worldmodels.config_file import load_config_file
from worldmodels.envs.catch import Catch
from worldmodels.envs.registry import evaluations
from worldmodels.errors import Stopped
from worldmodels.evaluation import EvaluationStopped, evaluate
from worldmodels.presets import load_config
from worldmodels.runtime.seeding import stream_seed
from worldmodels.trainer import Trainer, train

TASKS = ["upright", "flipped", "inverted"]


def stream_config(name: str = "continual:catch", steps: int = 180, **env) -> Config:
    config = load_config(name, ["debug"], steps=steps, evaluation={"every": 30})
    env = replace(config.env, **{"steps_per_task": 60, **env})
    return replace(config, env=env, deterministic=True, threads=1)


def scores(run: Path, kind: str) -> list[dict]:
    rows = map(json.loads, (run / "scores.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(stream_config(), tmp_path_factory.mktemp("stream") / "run", quiet=True)


def test_every_task_is_evaluated_on_the_schedule(run: Path):
    """Before training, at every multiple, and at the end; a boundary counts for what it ends."""
    rows = scores(run, "eval")
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in range(0, 181, 30) for task in TASKS
    ]
    active = {row["step"]: row["active"] for row in rows}
    assert active == {
        **{0: "upright", 30: "upright", 60: "upright"},
        **{90: "flipped", 120: "flipped", 150: "inverted", 180: "inverted"},
    }
    assert {(row["random_score"], row["reference_score"]) for row in rows} == {(-0.6, 1.0)}


def test_the_lines_of_training_name_their_task(run: Path):
    for row in scores(run, "train"):
        assert row["task"] == TASKS[min((row["step"] - 1) // 60, 2)]
    cut = [row for row in scores(run, "train") if row["step"] in (60, 120)]
    assert [row["length"] for row in cut] == [3] * 4, "30 steps an environment: 9, 9, 9 and 3"


def test_a_tasks_evaluation_depends_on_no_other(run: Path):
    agent = Agent.load(run)
    options = agent.config.evaluation
    seed = stream_seed(agent.config.seed, "evaluation/180")
    for row in scores(run, "eval")[-3:]:
        env = evaluations(agent.config.env)[row["task"]]
        alone = evaluate(agent, options.episodes, seed=seed, num_envs=options.envs, env=env)
        assert alone["returns"] == row["returns"]


def test_the_start_of_a_run_tells_the_schedule(run: Path):
    line = "stream continual:catch: 3 tasks x 60 steps = 180 steps; order upright, "
    assert line + "flipped, inverted" in (run / "log.txt").read_text()


def save_and_stop(trainer: Trainer):
    trainer.save()
    raise Stopped("asked to", 15)


def test_a_stop_between_two_tasks_writes_neither(tmp_path: Path, monkeypatch):
    whole = train(stream_config(steps=60), tmp_path / "whole", quiet=True)

    def stops(agent, episodes, *, env, **options):
        if agent.step >= 30 and env.task == "flipped":
            raise EvaluationStopped
        return evaluate(agent, episodes, env=env, **options)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", stops)
        patched.setattr(Trainer, "stop", save_and_stop)
        with pytest.raises(Stopped):
            train(stream_config(steps=60), tmp_path / "run", quiet=True)
    assert [row["step"] for row in scores(tmp_path / "run", "eval")] == [0, 0, 0]
    train(stream_config(steps=60), tmp_path / "run", resume=True, quiet=True)
    assert scores(tmp_path / "run", "eval") == scores(whole, "eval")


def test_the_single_task_reference(tmp_path: Path):
    run = train(stream_config(steps=60, task="flipped"), tmp_path / "run", quiet=True)
    assert {(row["task"], row["active"]) for row in scores(run, "eval")} == {("flipped",) * 2}
    assert {row["task"] for row in scores(run, "train")} == {"flipped"}
    assert {row["length"] for row in scores(run, "train")} == {9}


def test_a_run_goes_on_without_the_file_of_its_stream(tmp_path: Path):
    file = tmp_path / "stream.yaml"
    file.write_text("tasks: [catch, memory:catch]\nsteps_per_task: 40\n")
    name = f"continual:{file}"
    config = stream_config(name, 60, steps_per_task=40)
    whole = train(replace(config, steps=80), tmp_path / "whole", quiet=True)
    run = train(config, tmp_path / "run", quiet=True)
    file.unlink()
    saved = load_config_file(run / "config.yaml")
    assert saved == config
    train(replace(saved, steps=80), run, resume=True, quiet=True)
    assert scores(run, "train") == scores(whole, "train")
    assert {row["task"] for row in scores(run, "train")} == {"catch", "memory:catch"}


def test_a_task_that_cannot_be_saved_keeps_its_place_in_the_stream(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Catch, "get_state", lambda self: None)
    run = train(stream_config(steps=80), tmp_path / "run", quiet=True)
    train(stream_config(steps=180), run, resume=True, quiet=True)
    assert "cannot be saved: they start new episodes" in (run / "log.txt").read_text()
    done = dict.fromkeys(TASKS, 0)
    for row in scores(run, "train"):
        done[row["task"]] += row["length"]
    lost = 2 * 8  # of the episodes that the first part left open, at most
    assert 60 - lost <= done["flipped"] <= 60
    assert done["upright"] == 60


def test_an_ordinary_run_is_one_task(tmp_path: Path):
    config = load_config("catch", ["debug"], steps=60, evaluation={"every": 30})
    run = train(replace(config, threads=1), tmp_path / "run", quiet=True)
    rows = scores(run, "eval")
    assert [(row["step"], row["task"], row["active"]) for row in rows] == [
        (step, "catch", "catch") for step in (0, 30, 60)
    ]
    assert {row["task"] for row in scores(run, "train")} == {"catch"}
