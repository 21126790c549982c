"""A checkpoint goes on without damaged segments, as if they had been evicted."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.replay.damaging import WAYS, damage
from worldmodels.replay import CorruptReplay

LENGTH = 4
LANES = 2


def make(toys, folder, **options):
    return toys.replay(LANES, folder / "rows", **{"capacity": 160, "carry": "stored", **options})


def filled(toys, folder, **options):
    """Rows, cuts, draws and states, and a checkpoint of them."""
    stream, replay = toys.Stream(LANES), make(toys, folder, **options)
    for _ in range(12):
        stream.add_to(replay, 11)
        if replay.can_sample(LENGTH):
            learn(toys, replay)
    replay.end_lane(1)
    stream.add_to(replay, 13)
    (folder / "at").mkdir()
    replay.save(folder / "at")
    return stream, replay


def learn(toys, replay):
    batch = replay.sample(4, LENGTH)
    ids = batch.index.flatten()
    replay.update(ids, toys.carry_of(ids.tolist()))


def files(replay):
    """Path and rows' ids of every segment that has a file, oldest first."""
    folder = replay._keeper.archive.folder
    return [
        (folder / s.file.name, set(range(s.first, s.first + s.rows)))
        for s in replay._store.segments.values()
        if s.file
    ]


def starts_by_hand(replay) -> Counter:
    """Every window of every pool, from the ids of the segments that the retention keeps."""
    parts = getattr(replay._retention, "_parts", {"": replay._retention})
    found = Counter()
    for part in parts.values():
        segments = [s for s in replay._store.segments.values() if part.holds(s)]
        runs = [set(range(s.first, s.first + s.rows)) for s in segments]
        stitched = all(pool.stitched for pool, _ in part.pools.values())
        for run in [set().union(*runs)] if stitched else runs:
            found.update(row for row in run if {row + t for t in range(LENGTH)} <= run)
    return found


@pytest.mark.parametrize("storage", ["ram", "disk"])
@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar", "coverage"])
@pytest.mark.parametrize("how", WAYS)
def test_the_rows_of_damaged_segments_leave(toys, tmp_path, how, retention, storage):
    options = {"retention": retention, "storage": storage, "sampling": "dfs", "coin": "row"}
    stream, replay = filled(toys, tmp_path, **options)
    (first, lost), (last, more), *_ = (files(replay)[at] for at in (1, -2))
    before = {
        row for s in replay._store.segments.values() for row in range(s.first, s.first + s.rows)
    }
    known = replay._store.gather(sorted(before - lost - more))
    for path in (first, last):
        damage(path, how)
    with pytest.raises(CorruptReplay, match=first.name):
        replay.restore(tmp_path / "at")
    for again in (make(toys, tmp_path, **options, seed=7), replay):
        found = again.restore(tmp_path / "at", drop_damaged=True)
        assert found.lost == len(lost | more)
        assert f"WARNING: {found.lost} rows" in found.notes[0]
        assert first.name in found.notes[0]
        assert last.name in found.notes[0]
        assert again.rows == len(before) - found.lost
        check_windows(stream, again, lost | more)
        assert torch.equal(again._store.gather(sorted(before - lost - more)), known)
        assert not again._store.gather(sorted(lost | more)).any()


def check_windows(stream, replay, lost):
    """All that can be drawn is drawn, before anything comes twice; nothing else ever."""
    by_hand = starts_by_hand(replay)
    assert replay.eligible(LENGTH) == by_hand.total() > 20
    batch = replay.sample(4 * by_hand.total(), LENGTH)
    assert set(batch.index[:, 0].tolist()) == set(by_hand)
    assert lost.isdisjoint(batch.index.flatten().tolist())
    stream.check(replay.sample(16, LENGTH))


@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar"])
def test_it_goes_on_like_any_replay(toys, tmp_path, retention):
    """More rows than the capacity, and another checkpoint, which is exact."""
    options = {"retention": retention, "sampling": "dfs", "online": True}
    stream, replay = filled(toys, tmp_path, **options)
    path, lost = files(replay)[3]
    damage(path, "altered")
    replay.restore(tmp_path / "at", drop_damaged=True)
    stream.add_to(replay, 5)
    (tmp_path / "later").mkdir()
    replay.save(tmp_path / "later")
    expected = [replay.sample(4, LENGTH) for _ in range(5)]
    again = make(toys, tmp_path, **options)
    assert again.restore(tmp_path / "later").notes == ()
    assert all(toys.same_batch(again.sample(4, LENGTH), batch) for batch in expected)
    for _ in range(30):
        stream.add_to(again, 7)
        batch = again.sample(4, LENGTH)
        stream.check(batch)
        assert lost.isdisjoint(batch.index.flatten().tolist())
    assert again.eligible(LENGTH) == starts_by_hand(again).total()
    again.collect_garbage([tmp_path / "later"])
    assert not path.exists()
    recovered = make(toys, tmp_path, **options).recover()
    assert (recovered.rows, recovered.lost) == (again.rows, 0)


@pytest.mark.parametrize("rows", [8, 16, 40, 120])
def test_a_reservoir_keeps_the_largest_keys_of_what_is_left(toys, tmp_path, rows):
    stream, replay = filled(toys, tmp_path, retention="reservoir", segment=4)
    kept = {first: key for key, first in replay._retention._heap}
    lost = sorted(kept, key=kept.__getitem__)[:5]  # the top of the heap, where its order matters
    for path, ids in files(replay):
        if ids & set(lost):
            path.unlink()
    replay.restore(tmp_path / "at", drop_damaged=True)
    left = {first: key for key, first in replay._retention._heap}
    assert left == {first: key for first, key in kept.items() if first not in lost}
    offered = dict(left)
    begun = [segment.first for segment in replay._store.segments.values() if segment.open]
    for row in begun + stream.add_to(replay, rows):
        if row % 4 == 0:
            offered[row] = np.random.Generator(np.random.Philox(key=[0, row])).gumbel()
    whole = {first for first in offered if first + 4 <= replay._store.next_id[first >> 40]}
    largest = sorted(whole, key=offered.__getitem__)[-len(kept) :]
    assert {first for _, first in replay._retention._heap} == set(largest)


def test_an_online_window_does_not_cross_the_hole(toys, tmp_path):
    """Fresh windows of 4 rows at 0, 4, ...: rows 8 to 15 are lost, so 8 and 12 are never served."""
    options = {"online": True, "capacity": 400, "carry": "zero"}
    stream, replay = toys.Stream(LANES), make(toys, tmp_path, **options)
    stream.add_to(replay, 30)
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")
    path, lost = next((p, ids) for p, ids in files(replay) if 8 in ids)
    assert lost == set(range(8, 16))
    damage(path, "deleted")
    replay.restore(tmp_path / "at", drop_damaged=True)
    batch = replay.sample(12, LENGTH)
    assert sorted(batch.index[:, 0].tolist()) == sorted(
        {*range(0, 28, 4), *((1 << 40) + row for row in range(0, 28, 4))} - {8, 12}
    )
    stream.check(batch)


def test_a_stream_starts_anew_behind_the_hole(toys, tmp_path):
    stream, replay = toys.Stream(LANES), make(toys, tmp_path, carry="continue", capacity=400)
    stream.add_to(replay, 60)
    learn(toys, replay)
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")
    following = (replay._carry._next).tolist()
    path, lost = next((p, ids) for p, ids in files(replay) if following[0] + 1 in ids)
    damage(path, "deleted")
    replay.restore(tmp_path / "at", drop_damaged=True)
    batch = replay.sample(4, LENGTH)
    stream.check(batch)
    assert lost.isdisjoint(batch.index.flatten().tolist())
    for place, start in enumerate(following):
        goes_on = lost.isdisjoint(range(start, start + LENGTH))
        assert (int(batch.index[place, 0]) == start) == goes_on
        assert bool(batch.reset[place, 0]) == (not goes_on or bool(batch.is_first[place, 0]))


def test_a_replay_without_any_whole_file_is_refused(toys, tmp_path):
    _, replay = filled(toys, tmp_path)
    for path, _ in files(replay):
        path.unlink()
    rows = replay.rows
    with pytest.raises(CorruptReplay, match=r"all \d+ segment files .* damaged or missing; put"):
        replay.restore(tmp_path / "at", drop_damaged=True)
    assert replay.rows == rows


def test_a_damaged_checkpoint_is_refused_all_the_same(toys, tmp_path):
    _, replay = filled(toys, tmp_path)
    damage(next((tmp_path / "at").glob("replay_carry*")), "altered")
    with pytest.raises(CorruptReplay, match="replay_carry"):
        replay.restore(tmp_path / "at", drop_damaged=True)


def test_many_files_are_counted_not_listed(toys, tmp_path):
    _, replay = filled(toys, tmp_path)
    for path, _ in files(replay)[1:6]:
        path.unlink()
    found = replay.restore(tmp_path / "at", drop_damaged=True)
    assert ".npz, 2 more; the run goes on" in found.notes[0]
    assert np.isclose(found.lost, 5 * 8, atol=2 * 8)
