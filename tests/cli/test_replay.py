"""`worldmodels replay`: what a run's rows are, whether they are whole, and their export."""

import json
from dataclasses import replace

import numpy as np
import pytest

from worldmodels import load_config, train
from worldmodels.replay.folder import ReplayFolder

STEPS, TASKS = 600, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run over three tasks whose replay kept everything on disk."""
    config = load_config("continual:catch", steps=STEPS, train_ratio=0.5, num_envs=2)
    config = replace(
        config,
        env=replace(config.env, steps_per_task=STEPS // TASKS),
        device="cpu",
        evaluation=replace(config.evaluation, every=0, episodes=1, envs=1),
    )
    folder = tmp_path_factory.mktemp("replay") / "run"
    return train(config, folder, quiet=True)


def episodes_in(run) -> list[dict]:
    lines = (run / "scores.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["kind"] == "train"]


def test_inspect_counts_rows_and_tasks(call, run):
    facts = json.loads(call("replay", "inspect", str(run), "--json").out)
    episodes = episodes_in(run)
    assert facts["lanes"] == 2
    assert facts["ends of episodes"] == len(episodes)
    rows = facts["rows by task"]
    assert sum(rows["on disk"].values()) == facts["rows"] >= STEPS + len(episodes)
    assert set(rows["on disk"]) == {"upright", "flipped", "inverted"}
    assert all(count > STEPS / TASKS for count in rows["on disk"].values())
    assert set(rows) == {"on disk", "fifo", "reservoir"}
    assert sum(rows["reservoir"].values()) % 64 == 0
    text = call("replay", "inspect", str(run)).out
    assert "upright" in text
    assert "continual:catch" in text


def test_verify_names_what_is_damaged(call, run):
    assert "are what was written" in call("replay", "verify", str(run)).out
    path = sorted((run / "replay").glob("segment_*.npz"))[0]
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        answer = call("replay", "verify", str(run))
        assert answer.code != 0
        assert path.name in answer.out
        assert "damaged" in answer.err
        assert "Traceback" not in answer.err
    finally:
        path.write_bytes(whole)


def test_export_is_every_episode_losslessly(call, run, tmp_path):
    minari = pytest.importorskip("minari")
    answer = call("replay", "export", str(run), "--out", str(tmp_path / "set"))
    data = minari.MinariDataset(tmp_path / "set" / "data")
    ours = list(ReplayFolder(run).episodes())
    assert f"{len(ours)} episodes" in answer.out
    assert data.total_episodes == len(ours)
    returns = sorted(episode["return"] for episode in episodes_in(run))
    assert sorted(float(sum(e.rewards)) for e in data.iterate_episodes()) == returns
    for theirs, mine in zip(data.iterate_episodes(), ours, strict=True):
        assert len(theirs.actions) + 1 == len(theirs.observations)
        np.testing.assert_array_equal(theirs.observations, mine.obs["planes"])
        np.testing.assert_array_equal(theirs.actions, mine.prev_action[1:])
        assert theirs.terminations[-1] != theirs.truncations[-1]
        assert not theirs.terminations[:-1].any()
        assert not theirs.truncations[:-1].any()
    again = call("replay", "export", str(run), "--out", str(tmp_path / "set"))
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("inspekt", "x"), "did you mean 'inspect'"),
        (("inspect", "nowhere"), "does not exist"),
        (("export", "RUN"), "--out"),
        (("verify", "RUN", "--al"), "unknown option '--al'"),
    ],
)
def test_mistakes(call, run, words, text):
    answer = call("replay", *(str(run) if word == "RUN" else word for word in words))
    assert answer.code != 0
    assert text in answer.err


def test_a_run_without_rows(call, run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text((run / "config.yaml").read_text())
    assert "has no replay that can be read" in call("replay", "verify", str(tmp_path / "empty")).err
