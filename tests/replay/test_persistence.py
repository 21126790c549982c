"""Saved and restored exactly; every damage is named; nothing needed is ever deleted."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from tests.replay.damaging import WAYS, damage
from worldmodels.errors import UserError
from worldmodels.replay import CorruptReplay

MODES = ["zero", "burnin:2", "stored", "continue"]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment_*.npz"))


def learn(toys, replay, batches=3):
    """Sample and write states back, as training does."""
    seen = []
    for _ in range(batches):
        batch = replay.sample(4, 4)
        ids = batch.index.flatten()
        replay.update(ids, toys.carry_of(ids.tolist()))
        seen.append(batch)
    return seen


def saved(replay, directory: Path) -> Path:
    directory.mkdir()
    replay.save(directory)
    return directory


@pytest.fixture(params=MODES)
def options(request, tmp_path):
    return {"folder": tmp_path / "rows", "carry": request.param, "online": True, "capacity": 150}


@pytest.mark.parametrize("rows", [3, 16, 45, 130])
def test_a_restored_replay_samples_the_same(toys, options, tmp_path, rows):
    stream, replay = toys.Stream(2), toys.replay(**options)
    stream.add_to(replay, rows)
    if replay.can_sample(4):
        learn(toys, replay)
    replay.end_lane(0)
    stream.add_to(replay, 5)
    checkpoint = saved(replay, tmp_path / "checkpoint")

    def continued(which):
        after = toys.Stream(2, seed=9)
        batches = learn(toys, which)
        for _ in range(30):
            after.add_to(which, 3)
            batches += learn(toys, which, 1)
        return batches

    expected = continued(replay)
    for again in (toys.replay(**options, seed=77), replay):
        again.restore(checkpoint)
        assert all(map(toys.same_batch, continued(again), expected))


def test_restore_survives_eviction_and_garbage_collection(toys, options, tmp_path):
    stream, replay = toys.Stream(2), toys.replay(**options)
    stream.add_to(replay, 70)
    old = saved(replay, tmp_path / "old")
    expected = learn(toys, replay)
    stream.add_to(replay, 200)
    new = saved(replay, tmp_path / "new")
    before = segments(options["folder"])
    deleted = replay.collect_garbage([old, new])
    assert deleted
    assert set(segments(options["folder"])) == set(before) - set(deleted)
    again = toys.replay(**options)
    again.restore(new)
    again.restore(old)
    assert all(map(toys.same_batch, learn(toys, again), expected))
    replay.collect_garbage([new])
    again.restore(new)
    with pytest.raises(CorruptReplay, match="segment_"):
        again.restore(old)


def test_segments_sealed_since_the_last_checkpoint_are_not_garbage(toys, tmp_path):
    stream, replay = toys.Stream(2), toys.replay(folder=tmp_path / "rows")
    old = saved(replay, tmp_path / "old")
    stream.add_to(replay, 50)
    assert replay.collect_garbage([old]) == []
    new = saved(replay, tmp_path / "new")
    toys.replay(folder=tmp_path / "rows").restore(new)


def test_a_checkpoint_survives_a_killed_run_that_sealed_other_rows(toys, tmp_path):
    """After going back to `old`, the same positions are filled again, with other contents."""
    options = {"folder": tmp_path / "rows", "capacity": 150}
    stream, replay = toys.Stream(2, seed=1), toys.replay(**options)
    stream.add_to(replay, 5)
    old = saved(replay, tmp_path / "old")
    stream.add_to(replay, 30)
    new = saved(replay, tmp_path / "new")
    expected = learn(toys, replay)
    again = toys.replay(**options)
    again.restore(old)
    toys.Stream(2, seed=2).add_to(again, 30)
    again.collect_garbage([old, new])
    again.restore(new)
    assert all(map(toys.same_batch, learn(toys, again), expected))


def test_in_memory_only_travels_in_the_checkpoint(toys, tmp_path):
    stream, replay = toys.Stream(2), toys.replay()
    stream.add_to(replay, 70)
    checkpoint = saved(replay, tmp_path / "checkpoint")
    expected = learn(toys, replay)
    again = toys.replay()
    again.restore(checkpoint)
    assert all(map(toys.same_batch, learn(toys, again), expected))
    assert again.collect_garbage([checkpoint]) == []
    onto_disk = toys.replay(folder=tmp_path / "rows")
    onto_disk.restore(checkpoint)
    onto_disk.save(checkpoint)
    assert len(segments(tmp_path / "rows")) == 2 * (70 // 8)
    with pytest.raises(UserError, match="folder of its own"):
        again.restore(checkpoint)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("what", ["rows/segment_*", "at/replay_rows*", "at/replay_carry*", "at/*.json"])  # fmt: skip  # noqa: E501
def test_damage_is_named_and_changes_nothing(toys, tmp_path, what, how):
    options = {"folder": tmp_path / "rows", "carry": "stored"}
    stream, replay = toys.Stream(2), toys.replay(**options)
    stream.add_to(replay, 50)
    good = saved(replay, tmp_path / "good")
    checkpoint = saved(replay, tmp_path / "at")
    path = sorted(tmp_path.glob(what))[-1]
    kept = path.read_bytes()
    damage(path, how)
    with pytest.raises(CorruptReplay, match=path.name):
        replay.restore(checkpoint)
    stream.check(replay.sample(4, 4))
    assert replay.rows == 100
    path.write_bytes(kept)
    replay.restore(good)
    replay.restore(checkpoint)


def test_garbage_is_kept_where_a_checkpoint_is_unreadable(toys, tmp_path):
    stream, replay = toys.Stream(2), toys.replay(folder=tmp_path / "rows", capacity=100)
    stream.add_to(replay, 200)
    checkpoint = saved(replay, tmp_path / "checkpoint")
    damage(checkpoint / "replay.json", "truncated")
    before = segments(tmp_path / "rows")
    with pytest.raises(CorruptReplay, match=r"replay\.json"):
        replay.collect_garbage([checkpoint])
    assert segments(tmp_path / "rows") == before


@pytest.mark.parametrize(
    ("lanes", "change", "named"),
    [
        (3, {}, "lanes"),
        (2, {"capacity": 500}, "capacity"),
        (2, {"carry": "zero"}, "carry"),
        (2, {"action": "continuous"}, "actions"),
        (2, {"batch_length": 5}, "rows per sequence"),
    ],
)
def test_another_kind_of_run_is_refused(toys, tmp_path, lanes, change, named):
    replay = toys.replay(2, carry="stored")
    toys.Stream(2).add_to(replay, 20)
    checkpoint = saved(replay, tmp_path / "checkpoint")
    with pytest.raises(UserError, match=f"written with {named} "):
        toys.replay(lanes, **{"carry": "stored", **change}).restore(checkpoint)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_is_an_error_and_the_rows_stay(toys, tmp_path, monkeypatch, call):
    folder = tmp_path / "rows"
    stream, replay = toys.Stream(2), toys.replay(folder=folder)
    stream.add_to(replay, 7)
    checkpoint = saved(replay, tmp_path / "checkpoint")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    step, action = stream.step()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match=r"rows \(No space left on device\); free disk space"):
            replay.add(step, action)
        with pytest.raises(UserError, match="free disk space"):
            replay.save(checkpoint)
    assert segments(folder) == list(folder.glob(".*")) == []
    assert replay.rows == 16
    replay.sample(4, 4)
    for lane in range(2):
        stream.log[(lane << 40) | 7] = stream._row(step, action, lane)
    stream.add_to(replay)
    assert len(segments(folder)) == 2
    stream.check(replay.sample(32, 4))
    toys.replay(folder=folder).restore(checkpoint)


def test_a_write_that_stops_halfway_leaves_nothing(toys, tmp_path):
    stream, replay = toys.Stream(1), toys.replay(1, folder=tmp_path / "rows")
    stream.add_to(replay, 7)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(UserError, match="free disk space"):
            stream.add_to(replay)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "rows"
    assert segments(folder) == list(folder.glob(".*")) == []
    assert replay.rows == 8


def test_a_folder_that_cannot_be_made(toys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the replay in"):
        toys.replay(folder=tmp_path / "file" / "rows")


def test_a_segment_file_can_be_read_by_hand(toys, tmp_path):
    stream, replay = toys.Stream(1), toys.replay(1, folder=tmp_path)
    stream.add_to(replay, 8)
    (path,) = segments(tmp_path)
    assert path.name.startswith("segment_000_000000000000_")
    with np.load(path) as arrays:
        assert sorted(arrays) == ["obs.image", "obs.planes", "obs.where", "record"]
        assert arrays["obs.image"].shape == (8, 2, 2, 1)


def test_restore_counts_what_it_leaves_behind(toys, tmp_path):
    stream, replay = toys.Stream(2), toys.replay(folder=tmp_path / "rows")
    stream.add_to(replay, 13)
    checkpoint = saved(replay, tmp_path / "checkpoint")
    stream.add_to(replay, 21)
    replay.end_lane(0)
    stream.add_to(replay, 1)
    again = toys.replay(folder=tmp_path / "rows")
    assert again.restore(checkpoint).later == 44
    assert again.restore(checkpoint).later == 44  # the folder stays as it is until a row comes
    stream.add_to(again)
    assert toys.replay(folder=tmp_path / "rows").restore(checkpoint).later == 2
