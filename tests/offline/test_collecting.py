"""What `collect` records is what was played, and by whom; levels are those of the run."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldmodels.config import ReplayConfig
from worldmodels.envs.catch import Catch
from worldmodels.envs.configs import CatchConfig, GymConfig
from worldmodels.envs.registry import make
from worldmodels.errors import UserError
from worldmodels.offline.collect import Part, RandomPolicy, Recording, _played, collect, read_mix
from worldmodels.offline.dataset import References, open_dataset
from worldmodels.offline.levels import Buffer, find_medium, read_scores
from worldmodels.replay import Replay
from worldmodels.replay.recorded import Recorded
from worldmodels.trainer import train

RANDOM = Recording(CatchConfig(), "random", 11, envs=3)


def read(path: Path) -> list[Recorded]:
    return list(open_dataset(str(path)).read())


def test_actions_lead_where_they_are_recorded(tmp_path):
    """Catch's paddle moves by each row's action; episodes are whole, as many as were asked for."""
    episodes, steps, _ = collect(RANDOM, tmp_path / "set")
    assert (episodes, steps) == (11, 99)
    for rows in read(tmp_path / "set"):
        assert len(rows) == 10
        assert rows.is_first.tolist() == [True] + [False] * 9
        assert rows.is_terminal.tolist() == [False] * 9 + [True]
        assert rows.reward[:-1].tolist() == [0] * 9
        paddle = [int(frame[9, :, 0].argmax()) for frame in rows.obs["planes"][:-1]]
        for t in range(1, 9):
            moved = paddle[t - 1] + rows.prev_action[t] - 1
            assert paddle[t] == min(max(moved, 0), 4)
        ball = int(rows.obs["planes"][0, 0, :, 0].argmax())
        last = min(max(paddle[8] + rows.prev_action[9] - 1, 0), 4)
        assert rows.reward[-1] == (1 if ball == last else -1)


def test_no_action_leads_to_a_first_row():
    policy = RandomPolicy(Catch(CatchConfig(), seed=0).spec, seed=0)
    for rows in _played(RANDOM, policy, 5, seed=0):
        assert rows.prev_action[0] == -1
        assert (rows.prev_action[1:] >= 0).all()


def test_random_actions_are_uniform_and_the_seed_decides(tmp_path):
    many = replace(RANDOM, episodes=100, envs=8)
    collect(many, tmp_path / "a")
    collect(many, tmp_path / "b")
    collect(replace(many, seed=1), tmp_path / "c")
    a, b, c = (np.concatenate([r.prev_action[1:] for r in read(tmp_path / x)]) for x in "abc")
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()
    counts = np.bincount(a, minlength=3)  # 900 of three kinds: sd 14
    assert (abs(counts - 300) < 60).all()


def test_continuous_actions(tmp_path):
    recording = Recording(GymConfig("gym:Pendulum-v1", max_steps=5), "random", 3, envs=2)
    collect(recording, tmp_path / "set")
    data = open_dataset(str(tmp_path / "set"))
    spec = make(recording.env, seed=0).spec
    assert (data.obs, data.action) == (spec.obs, spec.action)
    for rows in data.read():
        assert rows.prev_action.shape == (6, 1)
        assert rows.prev_action[0] == 0
        assert not rows.is_terminal.any()  # a time limit
        angle = np.arctan2(rows.obs["vector"][:, 1], rows.obs["vector"][:, 0]).astype(np.float64)
        speed = rows.obs["vector"][:, 2].astype(np.float64)
        torque = 2 * rows.prev_action[1:, 0].astype(np.float64)
        # Gymnasium's Pendulum: reward and speed follow from the state before and the torque.
        cost = angle[:-1] ** 2 + 0.1 * speed[:-1] ** 2 + 0.001 * torque**2
        np.testing.assert_allclose(rows.reward[1:], -cost, rtol=1e-4, atol=1e-4)
        faster = speed[:-1] + (15 * np.sin(angle[:-1]) + 3 * torque) * 0.05
        np.testing.assert_allclose(speed[1:], np.clip(faster, -8, 8), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained(catch_set, tmp_path_factory) -> Path:
    """A run with a checkpoint; what it learned from does not matter."""
    from worldmodels.presets import load_config

    config = load_config("catch", presets=["debug"], offline=str(catch_set), steps=3, threads=1)
    return train(config, tmp_path_factory.mktemp("trained") / "run", quiet=True)


def test_a_run_plays_in_a_mix_and_everything_is_noted(trained, tmp_path):
    mix = f"random:1+expert:2+{trained}@3:1"
    recording = Recording(
        CatchConfig(), mix, 8, run=trained, envs=2, references=References(-0.5, None)
    )
    collect(recording, tmp_path / "set")
    known = json.loads((tmp_path / "set" / "data" / "metadata.json").read_text())
    parts = known["worldmodels"]["parts"]
    told = [(part["policy"], part["episodes"], part["run"], part["step"]) for part in parts]
    run = str(trained)
    assert told == [("random", 2, "", None), ("expert", 4, run, 3), (f"{run}@3", 2, run, 3)]
    returns = [float(rows.reward.sum()) for rows in read(tmp_path / "set")]
    for part, at in zip(parts, ((0, 2), (2, 6), (6, 8)), strict=True):
        assert part["mean_return"] == pytest.approx(np.mean(returns[slice(*at)]))
    assert (known["ref_min_score"], known["ref_max_score"]) == (-0.5, 1.0)
    collect(recording, tmp_path / "again")
    for one, other in zip(read(tmp_path / "set"), read(tmp_path / "again"), strict=True):
        assert one.prev_action.tolist() == other.prev_action.tolist()


@pytest.mark.parametrize(
    ("low", "high"), [(float("nan"), None), (None, float("inf")), (2.0, 1.0), (None, -0.6)]
)
def test_references_that_make_no_scale(tmp_path, low, high):
    """Catch's own are -0.6 and 1."""
    with pytest.raises(UserError, match="make no scale; give finite ones"):
        collect(replace(RANDOM, references=References(low, high)), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"run: pip install .worldmodels-rl\[offline\]"):
        collect(RANDOM, tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_environment(trained, tmp_path):
    recording = Recording(GymConfig("gym:CartPole-v1"), "expert", 2, run=trained)
    with pytest.raises(UserError, match="does not fit gym:CartPole-v1"):
        collect(recording, tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "episodes", "counts"),
    [
        ("random", 7, {"random": 7}),
        ("random:0.3+expert:0.7", 10, {"random": 3, "expert": 7}),
        ("medium+expert", 5, {"medium": 2, "expert": 3}),
        ("runs/a@12:2+replay:1", 3, {"runs/a@12": 2, "replay": 1}),
    ],
)
def test_mixes(text, episodes, counts):
    parts = read_mix(text, episodes)
    assert {part.policy: part.episodes for part in parts} == counts
    assert all(isinstance(part, Part) for part in parts)


def write_run(folder: Path, steps: list[int], scores: list[dict]) -> Path:
    """A run folder with checkpoints by name only, and a scores.jsonl with a torn line."""
    for step in steps:
        (folder / "checkpoints" / f"step_{step:012d}_00").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in scores)
    (folder / "scores.jsonl").write_text(text + '{"kind": "ev')
    return folder


def evaluated(step: int, mean: float, task: str = "catch") -> dict:
    return {"kind": "eval", "step": step, "mean": mean, "task": task}


def test_medium_is_a_third_of_the_way(tmp_path):
    """From -0.6 to 0.9 a third is -0.1; the nearest of what is there is taken."""
    scores = [evaluated(s, m) for s, m in ((10, -0.7), (20, -0.2), (30, 0.1), (40, 0.9))]
    run = write_run(tmp_path, [10, 20, 30, 40], scores)
    medium = find_medium(run, random_score=-0.6)
    assert (medium.step, medium.score, medium.low, medium.high) == (20, -0.2, -0.6, 0.9)


def test_scores_between_evaluations_are_those_of_training_about_then(tmp_path):
    """A return of step / 1000 at every step: the mean of 50 around 300 is about 0.3."""
    trained = [{"kind": "train", "step": s, "return": s / 1000} for s in range(1, 901)]
    run = write_run(tmp_path, [100, 300, 500, 900], [*trained, evaluated(900, 0.9)])
    scores = read_scores(run)
    assert scores.at(300) == pytest.approx(0.3, abs=0.001)
    assert scores.at(900) == 0.9
    assert find_medium(run, None).step == 300  # random play: the first 20, 0.01


def test_scores_are_means_over_tasks(tmp_path):
    run = write_run(tmp_path, [5], [evaluated(5, 1.0, "a"), evaluated(5, 0.0, "b")])
    assert read_scores(run).at(5) == 0.5


@pytest.mark.parametrize(
    ("steps", "scores", "text"),
    [
        ([10, 40], [evaluated(10, -0.6), evaluated(40, 0.9)], "--checkpoint.keep 100"),
        ([10], [evaluated(10, -0.7)], "is not above random play (-0.600)"),
        ([10], [], "no checkpoint whose score is known"),
        ([], [evaluated(10, 1.0)], "no checkpoint whose score is known"),
    ],
)
def test_runs_without_a_medium(tmp_path, steps, scores, text):
    with pytest.raises(UserError) as caught:
        find_medium(write_run(tmp_path, steps, scores), random_score=-0.6)
    assert text in str(caught.value)


def test_the_buffer_is_what_was_there_at_the_checkpoint(episodes, tmp_path):
    """Whole episodes of two lanes before a checkpoint; not the one that was going on, nor later."""
    spec = Catch(CatchConfig(), seed=0).spec
    options = ReplayConfig(capacity=1000, batch_length=2, batch_size=1, segment=16, carry="zero")
    replay = Replay(options, spec, None, 2, tmp_path / "replay", seed=0)
    checkpoint = tmp_path / "checkpoints" / "step_000000000009_00"
    (checkpoint / "replay").mkdir(parents=True)
    for number, episode in enumerate(episodes[:8]):
        for t, (step, action) in enumerate(episode.steps()):
            replay.add(step, action, [number % 2])
            if (number, t) == (5, 4):
                replay.save(checkpoint / "replay")
    buffer = Buffer(tmp_path, checkpoint)
    before = [episodes[number] for number in (0, 2, 4, 1, 3)]  # by lane; the sixth went on
    found = list(buffer)
    assert len(found) == len(before)
    for one, other in zip(found, before, strict=True):
        np.testing.assert_array_equal(one.obs["planes"], other.obs["planes"])
        np.testing.assert_array_equal(one.prev_action, other.prev_action)
    drawn = [rows.first for rows in buffer.draw(3, np.random.default_rng(0))]
    assert len({*drawn}) == 3
    assert drawn == sorted(drawn)
    with pytest.raises(UserError, match="holds 5 whole episodes"):
        buffer.draw(6, np.random.default_rng(0))
    write_run(tmp_path, [20], [evaluated(9, -0.1), evaluated(20, 0.9)])
    recording = Recording(CatchConfig(), "replay", 5, run=tmp_path)
    _, _, (part,) = collect(recording, tmp_path / "set")
    assert (part["step"], part["run"]) == (9, str(tmp_path))
    for one, other in zip(read(tmp_path / "set"), before, strict=True):
        np.testing.assert_array_equal(one.prev_action, other.prev_action)
