"""`train` from a data set: no environment is stepped, and none is needed."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.offline.conftest import EPISODES, ROWS
from worldmodels.agent import Agent
from worldmodels.config import Config
from worldmodels.config_file import load_config_file
from worldmodels.dry_run import dry_run
from worldmodels.envs.catch import Catch
from worldmodels.envs.configs import CatchConfig
from worldmodels.errors import UserError
from worldmodels.evaluation import evaluate
from worldmodels.parts import RETENTIONS, SAMPLERS
from worldmodels.presets import load_config
from worldmodels.replay.folder import ReplayFolder
from worldmodels.system import System
from worldmodels.trainer import train


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(run: Path) -> list[dict]:
    metrics = lines(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics]


@pytest.fixture(scope="module")
def finished(catch_set, tmp_path_factory) -> Path:
    config = load_config("catch", presets=["debug"], offline=str(catch_set))
    config = replace(
        config, deterministic=True, threads=1, steps=12, log=replace(config.log, every=4)
    )
    return train(config, tmp_path_factory.mktemp("finished") / "run", quiet=True)


def test_a_step_is_an_update_and_no_environment_is_stepped(tiny, tmp_path, monkeypatch):
    def stepped(*args):
        raise AssertionError("an environment was stepped")

    monkeypatch.setattr("worldmodels.trainer.Trainer.evaluate", lambda self: None)
    monkeypatch.setattr(Catch, "step", stepped)
    monkeypatch.setattr(Catch, "reset", stepped)
    run = train(replace(tiny, log=replace(tiny.log, every=4)), tmp_path / "run", quiet=True)
    metrics = lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [4, 8, 12]
    assert [row["train/updates"] for row in metrics] == [4, 8, 12]
    assert {row["replay/rows"] for row in metrics} == {EPISODES * ROWS}
    assert tiny.updates_per_step == 1


def test_the_replay_of_the_run_is_the_data_set(finished, episodes):
    found = list(ReplayFolder(finished).episodes())
    assert len(found) == len(episodes)
    for mine, theirs in zip(found, episodes, strict=True):
        np.testing.assert_array_equal(mine.obs["planes"], theirs.obs["planes"])
        np.testing.assert_array_equal(mine.prev_action, theirs.prev_action)
        np.testing.assert_array_equal(mine.reward, theirs.reward)
        np.testing.assert_array_equal(mine.is_terminal, theirs.is_terminal)


def test_the_run_says_what_it_learned_from(finished, catch_set):
    record = json.loads((finished / "dataset.json").read_text())
    told = {name: record[name] for name in ("path", "kind", "name", "rows", "episodes")}
    assert told == {
        "path": str(catch_set),
        "kind": "minari",
        "name": "catch-v0",
        "rows": EPISODES * ROWS,
        "episodes": EPISODES,
    }
    assert record["references"] == {"low": -1.0, "high": 3.0}
    assert record["checksum"].startswith("crc32:")
    assert load_config_file(finished / "config.yaml").offline == str(catch_set)


def test_scores_are_normalised_by_the_data_set(finished):
    (row,) = lines(finished / "scores.jsonl")
    assert (row["random_score"], row["reference_score"]) == (-1.0, 3.0)
    assert row["normalized"] == pytest.approx((row["mean"] + 1) / 4)
    scores = evaluate(Agent.load(finished), 3, seed=5)
    assert scores["normalized"] == pytest.approx((scores["mean"] + 1) / 4)


def test_without_references_those_of_the_environment_hold(tiny, catch_set, tmp_path):
    shutil.copytree(catch_set, tmp_path / "set")
    path = tmp_path / "set" / "data" / "metadata.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in known.items() if not k.startswith("ref_")}))
    run = train(replace(tiny, offline=str(tmp_path / "set")), tmp_path / "run", quiet=True)
    (row,) = lines(run / "scores.jsonl")
    assert row["normalized"] == pytest.approx((row["mean"] + 0.6) / 1.6)


@pytest.mark.parametrize("kind", ["run", "npz"])
def test_the_same_rows_of_another_kind_learn_the_same(finished, episodes, tiny, tmp_path, kind):
    """A run folder whose replay holds the rows, and .npz files of them."""
    source = finished
    if kind == "npz":
        source = tmp_path / "files"
        source.mkdir()
        for number, one in enumerate(episodes):
            ends = one.is_last[1:]
            np.savez(
                source / f"{number:03d}.npz",
                observations=one.obs["planes"],
                actions=one.prev_action[1:],
                rewards=one.reward[1:],
                terminations=ends & one.is_terminal[1:],
                truncations=ends & ~one.is_terminal[1:],
                num_actions=3,
            )
    config = replace(tiny, offline=str(source), log=replace(tiny.log, every=4))
    run = train(config, tmp_path / "run", quiet=True)
    assert untimed(run) == untimed(finished)
    assert json.loads((run / "dataset.json").read_text())["kind"] == kind


def test_resumed_runs_equal_those_that_were_not(finished, tiny, catch_set, tmp_path):
    """Bit for bit, and without the data set."""
    shutil.copytree(catch_set, tmp_path / "set")
    config = replace(tiny, steps=8, offline=str(tmp_path / "set"), log=replace(tiny.log, every=4))
    run = train(config, tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "set")
    train(replace(config, steps=12), run, resume=True, quiet=True)
    assert untimed(run) == untimed(finished)


def test_another_data_set_is_another_run(finished, tiny):
    with pytest.raises(UserError, match="--offline stays"):
        train(replace(tiny, offline="other"), finished, resume=True, quiet=True)


def test_a_run_without_a_checkpoint_is_filled_again(tiny, tmp_path, monkeypatch):
    """Killed between the fill and the first checkpoint; from another folder."""
    from worldmodels import trainer

    class Killed(BaseException):
        pass

    def killed(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "loop", killed)
        with pytest.raises(Killed):
            train(tiny, tmp_path / "run", quiet=True)
    run = train(tiny, tmp_path / "run", resume=True, quiet=True)
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    assert len(list(ReplayFolder(run).episodes())) == EPISODES
    assert not list(run.glob("set_aside*")), "its rows are copies"
    assert "with the data set read again" in (run / "log.txt").read_text()


@pytest.mark.parametrize("name", ["gym:NoSuch-v0", "no.such.module:Robot"])
def test_an_environment_that_is_not_here(call_free, catch_set, tmp_path, capsys, name):
    config = load_config(name, presets=["debug"], offline=str(catch_set), steps=6, threads=1)
    run = train(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert told.count("nothing is evaluated, because the environment") == 1
    assert "evaluating" not in told
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    agent = Agent.load(run)
    action, _ = agent.act(np.zeros((10, 5, 1), bool))
    assert action in range(3)
    train(replace(load_config_file(run / "config.yaml"), steps=8), run, resume=True, quiet=True)
    with pytest.raises(UserError):
        evaluate(agent, 1)


@pytest.fixture
def call_free(monkeypatch):
    """A terminal that is none, so that all lines are printed for good."""
    monkeypatch.setenv("CI", "1")


def test_options_of_a_missing_environment_survive(finished, tiny, tmp_path):
    """What config.yaml says of an environment that was uninstalled since."""
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    lost = text.replace("name: catch\n", "name: gone:robot\n  arms: 2\n  tasks: [a, b]\n")
    (run / "config.yaml").write_text(lost)
    config = load_config_file(run / "config.yaml")
    assert (config.env.name, config.env.arms, config.env.tasks) == ("gone:robot", 2, ("a", "b"))
    record = json.loads((run / "dataset.json").read_text())
    record["layout"]["environment"] = "gone:robot"
    (run / "dataset.json").write_text(json.dumps(record))
    assert Agent.load(run).spec.name == "gone:robot"
    del tiny


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ("memory:tmaze-5", "it has 3 discrete actions, the environment 2 discrete actions"),
        ("gym:CartPole-v1", "it has planes planes (10, 5, 1), the environment vector vector (4,)"),
    ],
)
def test_the_environment_must_be_that_of_the_data_set(catch_set, tmp_path, env, text):
    config = load_config(env, presets=["debug"], offline=str(catch_set), steps=2, threads=1)
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "run", quiet=True)
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_lie_in_the_last_row_stops_before_training(tiny, episodes, tmp_path):
    rows = episodes[-1].reward.copy()
    rows[-1] = np.nan
    from worldmodels.offline.writing import write_minari

    spec = Catch(CatchConfig(), seed=0).spec
    write_minari(tmp_path / "set", spec, [*episodes[:-1], replace(episodes[-1], reward=rows)], {})
    with pytest.raises(
        UserError, match=rf"main_data\.hdf5, episode {EPISODES - 1}, row 9: rewards"
    ):
        train(replace(tiny, offline=str(tmp_path / "set")), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_too_few_rows_for_a_batch(tiny, tmp_path):
    large = replace(tiny, replay=replace(tiny.replay, batch_size=64))
    with pytest.raises(UserError, match="too few for batches of 64 x 8"):
        train(large, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_fifo_never_forgets_a_part_of_the_data_set(tiny, tmp_path):
    small = replace(tiny, replay=replace(tiny.replay, capacity=96))
    with pytest.raises(UserError, match=r"give --replay\.capacity 120"):
        train(small, tmp_path / "run", quiet=True)


def test_a_reservoir_says_what_it_keeps(tiny, tmp_path, capsys, call_free):
    options = replace(tiny.replay, capacity=96, retention="reservoir", segment=20)
    train(replace(tiny, replay=options), tmp_path / "run")
    assert "the replay is filled: 120 rows, of which the retention keeps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("storage", "retention", "sampling"),
    [
        *product(["ram", "disk", "device"], ["wmar"], ["uniform"]),
        *(("ram", retention, "uniform") for retention in RETENTIONS if retention != "wmar"),
        *(("disk", "reservoir", sampling) for sampling in SAMPLERS if sampling != "uniform"),
    ],
)
def test_every_storage_retention_and_sampling(tiny: Config, tmp_path, storage, retention, sampling):
    options = replace(
        tiny.replay, storage=storage, retention=retention, sampling=sampling, segment=24
    )
    system = System(replace(tiny, replay=options), tmp_path)
    system.collector.start()
    for _ in range(2):
        system.collect()
        system.learn()
    assert system.updates == 2
    assert all(np.isfinite(value) for value in system.means.pop().values())


def test_dry_run(tiny):
    report = dry_run(tiny)
    assert report["updates"] == tiny.steps
    assert report["seconds_per_update"] > 0
    assert any("no environment is stepped" in line for line in report["description"])


@pytest.mark.slow
def test_online_the_environment_is_stepped_behind_the_data_set(finished, episodes, tmp_path):
    """And goes on so when it is resumed again, bit for bit as without a stop."""
    config = load_config_file(finished / "config.yaml")
    config = replace(config, offline="", checkpoint=replace(config.checkpoint, keep=9))
    runs = [shutil.copytree(finished, tmp_path / name) for name in ("at_once", "in_two")]
    train(replace(config, steps=48), runs[0], resume=True, quiet=True)
    for steps in (30, 48):
        train(replace(config, steps=steps), runs[1], resume=True, quiet=True)
    assert untimed(runs[0]) == untimed(runs[1])
    last = untimed(runs[0])[-1]
    rows = (48 - 12) + (48 - 12) // 9  # every episode of Catch has 9 steps, and its first row
    assert EPISODES * ROWS + rows - 2 <= last["replay/rows"] <= EPISODES * ROWS + rows + 2
    assert last["train/updates"] - 12 == int((48 - 12) * config.updates_per_step)
    found = list(ReplayFolder(runs[0]).episodes())
    assert len(found) > EPISODES
    np.testing.assert_array_equal(found[0].obs["planes"], episodes[0].obs["planes"])
    played = [line for line in lines(runs[0] / "scores.jsonl") if line["kind"] == "train"]
    assert {line["length"] for line in played} == {9}
    assert load_config_file(runs[0] / "config.yaml").offline == ""
    assert Agent.load(runs[0]).references.high == 3.0


@pytest.mark.parametrize("storage", ["disk", "device"])
def test_online_in_every_storage(tiny, tmp_path, storage):
    config = replace(tiny, replay=replace(tiny.replay, storage=storage), steps=4)
    run = train(config, tmp_path / "run", quiet=True)
    train(replace(config, offline="", steps=30), run, resume=True, quiet=True)
    assert json.loads((run / "status.json").read_text())["step"] == 30


def test_online_needs_the_environment(catch_set, tmp_path):
    config = load_config("robot", presets=["debug"], offline=str(catch_set), steps=2, threads=1)
    run = train(config, tmp_path / "run", quiet=True)
    before = (run / "config.yaml").read_text()
    with pytest.raises(UserError, match="unknown environment 'robot'"):
        train(replace(config, offline="", steps=4), run, resume=True, quiet=True)
    assert (run / "config.yaml").read_text() == before
