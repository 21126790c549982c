"""What a replay refuses, and what it says of files that are damaged."""

import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.replay.dfs import Dfs
from worldmodels.replay.manifest import MANIFEST


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"segment": 16}, "rows per segment 8, this replay has 16"),
        ({"lanes": 3}, "lanes 2, this replay has 3"),
        ({"action": "continuous"}, "actions"),
        ({"seed": 5}, "seed 0, this replay has 5"),
    ],
)
def test_recover_refuses_rows_of_another_kind(toys, tmp_path, change, named):
    stream, replay = toys.Stream(2), toys.replay(folder=tmp_path, segment=8)
    stream.add_to(replay, 30)
    other = toys.replay(folder=tmp_path, **{"segment": 8, **change})
    with pytest.raises(UserError, match=named):
        other.recover()
    again = toys.replay(folder=tmp_path, segment=8)
    assert again.recover().rows == 60
    stream.check(again.sample(16, 4))


def test_a_folder_with_rows_is_not_overwritten_by_chance(toys, tmp_path):
    stream, replay = toys.Stream(2), toys.replay(folder=tmp_path)
    stream.add_to(replay, 30)
    other = toys.replay(folder=tmp_path)
    with pytest.raises(UserError, match=r"recover\(\) to go on"):
        stream.add_to(other)
    other.clear()
    stream.add_to(other, 3)
    assert toys.replay(folder=tmp_path).recover().rows == 6


@pytest.mark.parametrize("retention", ["wmar", "reservoir"])
def test_continue_needs_lanes_that_are_kept_whole(toys, retention):
    with pytest.raises(UserError, match=f"--replay.retention={retention} does not keep whole"):
        toys.replay(carry="continue", retention=retention)


def test_a_damaged_manifest_is_told(toys, tmp_path):
    stream, replay = toys.Stream(1), toys.replay(1, folder=tmp_path)
    stream.add_to(replay, 60)
    lines = (tmp_path / MANIFEST).read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 60 // 8
    lines[2] = lines[2].replace("1", "2")
    (tmp_path / MANIFEST).write_text("".join(lines))
    recovered = toys.replay(1, folder=tmp_path).recover()
    assert recovered.rows == 8 + 60 % 8
    assert any("5 segment files cannot be found" in note for note in recovered.notes)


def test_tails_that_never_became_valid_stay_gone(toys, tmp_path):
    """Killed while a new generation began, restored, killed again: old rows do not come back."""
    stream, replay = toys.Stream(1), toys.replay(1, folder=tmp_path / "rows")
    stream.add_to(replay, 5)
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")
    stream.add_to(replay, 2)
    (tail,) = (tmp_path / "rows").glob("tail_*.rows")
    number = int(tail.name.split("_")[1])
    stale = tail.with_name(tail.name.replace(f"_{number:04d}_", f"_{number + 1:04d}_", 1))
    stale.write_bytes(tail.read_bytes())
    again = toys.replay(1, folder=tmp_path / "rows")
    assert again.restore(tmp_path / "at").later == 2
    stream.add_to(again)
    assert toys.replay(1, folder=tmp_path / "rows").recover().rows == 6


@pytest.mark.parametrize(
    ("sampling", "online"), [("dfs", False), ("dfs", True), ("dfs:0.5+uniform:0.5", True)]
)
def test_dfs_counts_every_window_that_is_served(toys, sampling, online):
    """Also fresh windows and those of other samplers; the ratio is that of whole batches."""
    stream = toys.Stream(2)
    replay = toys.replay(sampling=sampling, online=online, capacity=2000)
    stream.add_to(replay, 200)
    (sampler,) = replay._samplers.values()
    dfs = sampler if isinstance(sampler, Dfs) else sampler._parts[0]
    served = np.concatenate([replay.sample(8, 4).index[:, 0].numpy() for _ in range(10)])
    assert dfs._learned.sum() == len(served) == 80
    replay.sample(32, 4, "imagine")
    assert dfs._ratio == 4
    assert dfs._imagined.sum() == 32


def test_two_samplers_with_a_memory_share_a_pool(toys):
    stream, replay = toys.Stream(2), toys.replay(capacity=100)
    (pool, _) = replay._retention.pools["recent"]
    other = Dfs(pool, replay._store, replay._retention.max_segments)
    another = Dfs(pool, replay._store, replay._retention.max_segments)
    stream.add_to(replay, 200)
    random = np.random.default_rng(0)
    for dfs in (other, another):
        assert all(pool.holds(row, 4) for row in dfs.draw(8, 4, "learn", random))


def test_the_first_rollout_of_coverage_can_leave(toys):
    stream, replay = toys.Stream(1), toys.replay(1, retention="coverage", capacity=80, segment=8)
    first = stream.add_to(replay, 8)[0]
    stream.add_to(replay, 8)
    ((key, _), (other, _)) = sorted(replay._retention._heap, key=lambda pair: pair[1])
    assert key == other > 0
    assert replay._retention.holds(replay._store.segments[first])


@pytest.mark.parametrize("how", ["clear", "recover"])
def test_nothing_of_the_rows_before_is_served_again(toys, tmp_path, how):
    stream = toys.Stream(2)
    replay = toys.replay(folder=tmp_path, carry="continue", online=True)
    stream.add_to(replay, 60)
    batch = replay.sample(4, 4)
    replay.update(batch.index.flatten(), toys.carry_of(batch.index.flatten().tolist()))
    assert len(replay._online._waiting) > 0
    getattr(replay, how)()
    assert len(replay._online._waiting) == 0
    stream.add_to(replay, 60)
    assert replay.sample(4, 4).reset[:, 0].all()
