"""T3, T4: ends of episodes, their rewards and flags, in every retention; tasks stay unseen."""

import random as python_random
from dataclasses import fields

import numpy as np
import pytest

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.spec import Step
from worldmodels.envs.vector import VecEnv
from worldmodels.objects import Batch
from worldmodels.replay import Replay

RETENTIONS = ["fifo", "reservoir", "reward_weighted", "coverage", "wmar"]
SIZES = {"capacity": 320, "segment": 10, "batch_length": 6}


def rows_of(replay, which=None):
    """id -> (reward, is_last, task) of every resident row, read back one by one."""
    found = {}
    for segment in replay._store.segments.values() if which is None else which:
        rollout = replay._layout.rollout(lambda s=segment: replay._store.arrays(s))
        for row in range(segment.rows):
            flags = rollout.reward[row], rollout.flag("is_last")[row], rollout.task[row]
            found[segment.first + row] = flags
    return found


@pytest.mark.parametrize("storage", ["ram", "disk", "device"])
@pytest.mark.parametrize("retention", RETENTIONS)
def test_resets_within_windows_are_where_episodes_start(toys, tmp_path, retention, storage):
    """Not one row off, and not where a rollout was cut; the flag that is stored stays as it was."""
    stream = toys.Stream(2, longest=7)
    options = {"retention": retention, "storage": storage, "coin": "row", **SIZES}
    replay = toys.replay(2, tmp_path, **options)
    stream.add_to(replay, 600)
    begun_within = 0
    for _ in range(40):
        batch = replay.sample(16, 6)
        stream.check(batch)
        _, episode, time = batch.obs["where"].long().unbind(-1)
        assert (batch.is_first == (time == 0)).all()
        assert (batch.reset[:, 1:] == (time[:, 1:] == 0)).all()
        assert batch.reset[:, 0].all()
        assert (episode.diff(dim=1) == batch.is_first[:, 1:].long()).all()
        assert (batch.is_first[:, 1:] == batch.is_last[:, :-1]).all()
        assert (batch.reward[batch.is_first] == 0).all()
        begun_within += int(((time[:, 0] > 0) & ~batch.is_first[:, 0]).sum())
    assert begun_within > 100


@pytest.mark.parametrize("retention", RETENTIONS)
def test_rewards_at_ends_of_episodes_are_kept(toys, retention):
    """Each is on the row on which it arrived, and the end is neither moved nor marked early."""
    stream = toys.Stream(2, longest=7)
    replay = toys.replay(2, retention=retention, **SIZES)
    stream.add_to(replay, 600)
    found = rows_of(replay)
    ends = [row for row, (_, is_last, _) in found.items() if is_last]
    assert len(ends) > 30
    for row, (reward, is_last, _) in found.items():
        assert reward == stream.log[row]["reward"]
        assert is_last == stream.log[row]["is_last"]
    assert sum(abs(found[row][0]) for row in ends) > 1


@pytest.mark.parametrize("retention", ["reservoir", "wmar"])
def test_a_cut_ends_nothing(toys, retention):
    """Where a rollout or a lane is cut, no row says that an episode or its value ended."""
    replay = toys.replay(2, retention=retention, **SIZES)
    stream = toys.Stream(2, longest=1000)
    for _ in range(40):
        stream.add_to(replay, 7)
        replay.end_lane(0)
    batches = [replay.sample(16, 6) for _ in range(20)]
    assert not any((batch.is_last | batch.is_terminal).any() for batch in batches)
    for batch in batches:
        assert (batch.obs["where"][..., 2].diff(dim=1) == 1).all()


def test_global_generators_decide_nothing(toys):
    def drawn(number):
        np.random.seed(number)
        python_random.seed(number)
        stream = toys.Stream(2)
        options = {"retention": "wmar", "sampling": "uniform+dfs", "coin": "batch", **SIZES}
        replay = toys.replay(2, seed=4, **options)
        stream.add_to(replay, 300)
        return [replay.sample(4, 6).index.tolist() for _ in range(20)]

    assert drawn(1) == drawn(2)


def test_images_are_kept_as_bytes(toys):
    replay = toys.replay(1)
    toys.Stream(1).add_to(replay, 30)
    columns = replay._store.storage._columns
    assert columns["obs.image"].dtype == np.uint8
    assert columns["obs.image"].nbytes == 4
    assert replay.sample(2, 4).obs["image"].dtype.itemsize == 1


@pytest.mark.parametrize("retention", RETENTIONS)
def test_the_task_is_stored_and_decides_nothing(toys, tmp_path, retention):
    """The same stream with other labels gives the same rows, draws and batches."""
    options = {"retention": retention, "sampling": "uniform+recency+dfs", **SIZES}
    replays = [toys.replay(2, tmp_path / str(label), **options) for label in (0, 1)]
    streams = [toys.Stream(2) for _ in replays]
    for time in range(500):
        for label, (replay, stream) in enumerate(zip(replays, streams, strict=True)):
            step, action = stream.step()
            task = np.array([label * time, label * 7], np.int32)
            replay.add(Step(**{**vars(step), "task": task}), action)
    one, two = ({row: r[:2] for row, r in rows_of(replay).items()} for replay in replays)
    assert one == two
    for _ in range(20):
        a, b = (replay.sample(4, 6) for replay in replays)
        assert toys.same_batch(a, b)
    assert "task" not in {field.name for field in fields(Batch)}
    again = toys.replay(2, tmp_path / "1", **options)
    again.recover()
    for row, (_, _, task) in rows_of(again).items():
        position = row & ((1 << 40) - 1)
        assert task == (7 if row >> 40 else position)


class Counted:
    """An environment that adds up its own episodes, as a script without us would."""

    def __init__(self, env):
        self.env, self.spec = env, env.spec
        self.returns, self.lengths, self.ends = [], [], []

    def reset(self):
        self.returns.append(0.0)
        self.lengths.append(0)
        self.ends.append(False)
        return self.env.reset()

    def step(self, action):
        step = self.env.step(action)
        self.returns[-1] += float(step.reward[0])
        self.lengths[-1] += 1
        self.ends[-1] = bool(step.is_last[0])
        return step


@pytest.mark.parametrize("storage", ["ram", "disk", "device"])
@pytest.mark.parametrize("name", ["catch", "memory:repeat-3", "memory:tmaze-5", "memory:catch"])
def test_stored_rewards_add_up_to_the_returns_of_the_environment(toys, tmp_path, name, storage):
    envs = [Counted(make(config_for(name), seed)) for seed in range(3)]
    vec = VecEnv(envs)  # pyright: ignore[reportArgumentType]
    size = vec.spec.action.size
    options = toys.Options(capacity=3000, segment=16, storage=storage)
    replay = Replay(options, vec.spec, {"h": LeafSpec((2,))}, 3, tmp_path, seed=0)
    random = np.random.default_rng(0)
    action = np.full(3, -1)
    for _ in range(400):
        step = vec.step(action)
        replay.add(step, np.where(step.is_first, -1, action))
        action = random.integers(0, size, 3)
    checked = 0
    for lane, env in enumerate(envs):
        rows = sorted(item for item in rows_of(replay).items() if item[0] >> 40 == lane)
        ends = np.cumsum([0, *(is_last for _, (_, is_last, _) in rows)])[:-1]
        for episode, over in enumerate(env.ends):
            mine = [reward for (_, (reward, _, _)), at in zip(rows, ends, strict=True) if at == episode]  # fmt: skip  # noqa: E501
            assert len(mine) == env.lengths[episode] + 1
            assert np.isclose(sum(mine), env.returns[episode])
            checked += over and env.returns[episode] != 0
    assert checked > 2
