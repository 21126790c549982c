"""A run's replay as a data set: all its rows, flags and all, and no window over a gap."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.offline import sets
from tests.replay.conftest import Options, Stream, toy_spec
from worldmodels.errors import UserError
from worldmodels.offline.dataset import open_dataset
from worldmodels.offline.fill import fill
from worldmodels.offline.writing import write_minari
from worldmodels.replay import Replay
from worldmodels.replay.recorded import Recorded

LENGTH = 5


def make(folder: Path, **options) -> Replay:
    return Replay(Options(**options), toy_spec(), None, 2, folder, seed=0)


@pytest.fixture(params=["fifo", "reservoir", "wmar"])
def source(request, tmp_path) -> tuple[Path, Stream]:
    """Two lanes of which a part is gone; rows are in files and in open segments."""
    (tmp_path / "config.yaml").write_text("env: {name: toy}\n")
    options = {"retention": request.param, "capacity": 160, "segment": 10, "coin": "row"}
    replay, stream = make(tmp_path / "replay", **options), Stream(2, longest=14)
    stream.add_to(replay, 203)
    replay.end_lane(1)
    stream.add_to(replay, 4)
    replay.collect_garbage([])
    return tmp_path, stream


def test_every_row_that_is_left_is_read(source):
    run, stream = source
    data = open_dataset(str(run))
    blocks = list(data.read())
    assert data.kind == "run"
    assert data.rows == sum(len(block) for block in blocks) > 60
    for block in blocks:
        for t in range(len(block)):
            row = stream.log[block.first + t]
            for name in ("reward", "is_first", "is_last", "is_terminal", "obs_valid"):
                assert getattr(block, name)[t] == row[name]
            for key, values in block.obs.items():
                np.testing.assert_array_equal(values[t], row[f"obs.{key}"])
            action = block.prev_action[t]
            np.testing.assert_array_equal(np.eye(4, 3)[action], row["prev_action"])


def test_windows_never_cross_what_is_missing(source, tmp_path):
    run, _ = source
    replay = make(tmp_path / "other", batch_length=LENGTH, capacity=2000)
    rows, _ = fill(replay, open_dataset(str(run)))
    assert replay.rows == rows
    crossed = 0
    for _ in range(60):
        batch = replay.sample(16, LENGTH)
        lane, episode, time = batch.obs["where"].long().unbind(-1)
        first = batch.is_first[:, 1:]
        follows = (lane.diff(dim=1) == 0) & (episode.diff(dim=1) == 0) & (time.diff(dim=1) == 1)
        assert (follows | (first & batch.is_last[:, :-1])).all()
        crossed += int(first.sum())
    assert crossed > 20  # from one episode to the next they do go on


def test_a_damaged_segment_is_named(source):
    run, _ = source
    path = sorted((run / "replay").glob("segment_*.npz"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path.name} .*sound episodes; nothing was trained") as e:
        list(open_dataset(str(run)).read())
    assert "checkpoint" not in str(e.value), "nobody resumes here"


def test_rows_that_no_one_can_learn_from(tmp_path):
    (tmp_path / "config.yaml").write_text("env: {name: toy}\n")
    replay, stream = make(tmp_path / "replay", segment=16), Stream(2, longest=30)
    begun = 0
    for number in range(40):
        step, action = stream.step()
        begun += number <= 20 and int(step.is_first[1])
        if number == 20:
            step.reward[1] = np.nan
        replay.add(step, action)
    assert begun > 1
    with pytest.raises(UserError, match=rf"lane 1, episode {begun - 1}, row 20: reward is nan"):
        list(open_dataset(str(tmp_path)).read())


def test_a_run_without_rows(tmp_path):
    (tmp_path / "config.yaml").write_text("env: {name: toy}\n")
    with pytest.raises(UserError, match="has no replay that can be read"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", ["minari", "npz", "run"])
def test_one_episode_at_a_time_is_in_memory(tmp_path, kind):
    """Six times as many episodes are read with no more memory."""
    peaks = []
    for count in (2, 12):
        raw = sets.make_raw(sets.IMAGE, sets.ACTIONS["discrete"], [1], 0)
        rows = np.arange(1001)
        episode = Recorded(
            obs={"image": np.repeat(raw.episodes[0]["observations"][:1], 1001, 0)},
            prev_action=np.where(rows == 0, -1, 0),
            reward=np.zeros(1001, np.float32),
            is_first=rows == 0,
            is_last=rows == 1000,
            is_terminal=rows == 1000,
            obs_valid=rows >= 0,
            task=np.zeros(1001, np.int32),
        )
        path = tmp_path / f"{kind}{count}"
        write(kind, path, episode, count)
        tracemalloc.start()
        assert sum(len(block) for block in open_dataset(str(path)).read()) == 1001 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 2**18


def write(kind: str, path: Path, episode: Recorded, count: int) -> None:
    """`count` times the same episode."""
    from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec

    spec = EnvSpec("test", {"image": ObsSpec((4, 5, 3), "image")}, ActionSpec("discrete", 3))
    if kind == "minari":
        write_minari(path, spec, [episode] * count, {})
    elif kind == "run":
        path.mkdir()
        (path / "config.yaml").write_text("env: {name: toy}\n")
        options = Options(capacity=10**6, segment=1000)
        replay = Replay(options, spec, None, 1, path / "replay", seed=0)
        for _ in range(count):
            for step, action in episode.steps():
                replay.add(step, action)
    else:
        path.mkdir()
        ends = episode.is_last[1:]
        np.savez_compressed(
            path / "all.npz",
            observations=np.tile(episode.obs["image"], (count, 1, 1, 1)),
            actions=np.tile(episode.prev_action[1:], count),
            rewards=np.tile(episode.reward[1:], count),
            terminations=np.tile(ends, count),
            truncations=np.zeros(1000 * count, bool),
            lengths=np.full(count, 1000),
            num_actions=3,
        )


def test_images_are_written_losslessly(tmp_path):
    """Noise, in the shape that Minari would make a JPEG of."""
    from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec

    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    rows = np.arange(6)
    episode = Recorded(
        obs={"image": images},
        prev_action=np.where(rows == 0, -1, 0),
        reward=np.zeros(6, np.float32),
        is_first=rows == 0,
        is_last=rows == 5,
        is_terminal=rows == 5,
        obs_valid=rows >= 0,
        task=np.zeros(6, np.int32),
    )
    spec = EnvSpec("test", {"image": ObsSpec((32, 32, 3), "image")}, ActionSpec("discrete", 3))
    write_minari(tmp_path / "set", spec, [episode], {})
    (read,) = open_dataset(str(tmp_path / "set")).read()
    np.testing.assert_array_equal(read.obs["image"], images)
