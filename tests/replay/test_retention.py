"""The newest rows stay (T7), within a memory that is known before the run (T12)."""

import pytest

from worldmodels.errors import UserError
from worldmodels.replay.plan import check_memory, segment_size


def resident(replay) -> set[int]:
    return {
        segment.first + row
        for segment in replay._store.segments.values()
        for row in range(segment.rows)
    }


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_newest_rows_stay(toys, lanes):
    stream = toys.Stream(lanes)
    replay = toys.replay(lanes, capacity=100, segment=8)
    added = []
    for _ in range(300):
        added += stream.add_to(replay)
        kept = resident(replay)
        assert len(kept) == replay.rows <= 100
        assert replay.rows >= min(len(added), 100 - 8 - lanes + 1)
        # Lanes advance together: what left is older than what stayed, up to one segment.
        gone = [at for at, row in enumerate(added) if row not in kept]
        stayed = [at for at, row in enumerate(added) if row in kept]
        assert max(gone, default=-1) < min(stayed) + 8 * lanes
    for _ in range(30):
        stream.check(replay.sample(8, 4))


def test_memory_is_known_before_the_run_and_stays(toys):
    stream = toys.Stream(2)
    replay = toys.replay(2, capacity=200, segment=16, carry="stored")
    before, text = replay.bytes, replay.describe()
    stream.add_to(replay, 1000)
    replay.sample(4, 4)
    assert replay.bytes == before
    assert replay.describe() == text
    assert replay.bytes <= (200 + 2 * 16) * replay._row_bytes
    assert "newest 200 rows" in text
    assert "carry stored" in text


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, []),
        ({"coin": "row"}, ["coin row"]),
        ({"long_term_share": 0.25, "retention": "reservoir"}, ["long_term_share 0.25"]),
        ({"coin": "row", "long_term_share": 0.3}, ["coin row", "long_term_share 0.3"]),
        ({"coin": "row", "long_term_share": 0.3, "retention": "wmar"}, []),
    ],
)
def test_options_that_decide_nothing_are_told(toys, options, idle):
    told = toys.replay(2, **options).describe()
    kind = options.get("retention", "fifo")
    for name in idle:
        assert f"; replay.{name} has no effect with retention {kind}" in told
    assert told.count("has no effect") == len(idle)


@pytest.mark.parametrize("lanes", [2, 4])
def test_lanes_that_are_cut_all_the_time_do_not_grow_memory(toys, lanes):
    """With 4 lanes even the segment that lane 0 is writing is at times the oldest of all."""
    stream = toys.Stream(lanes)
    replay = toys.replay(lanes, capacity=128, segment=8)
    before = replay.bytes
    for row in range(100):
        stream.add_to(replay)
        for lane in range(1, lanes):
            replay.end_lane(lane)
        assert set(replay._keeper._unsealed) <= set(replay._store.segments)
        assert replay.rows <= 128
        assert replay.eligible(1) == replay.rows
        if row > 4 and replay.can_sample(2):
            stream.check(replay.sample(8, 2))
    assert replay.bytes == before


def test_reserve_takes_only_what_a_short_run_needs(toys):
    stream = toys.Stream(2)
    short = toys.replay(2, capacity=10_000, segment=16, reserve=100)
    assert short.bytes <= (100 + 2 * 16) * short._row_bytes
    before = short.bytes
    stream.add_to(short, 50)
    assert short.bytes == before
    stream.add_to(short, 200)
    assert short.rows == 500
    assert toys.replay(2, capacity=100, reserve=10_000).bytes == toys.replay(2, capacity=100).bytes


def test_a_capacity_that_cannot_work_is_refused(toys):
    with pytest.raises(UserError, match="raise it to at least 256"):
        toys.replay(2, capacity=200, batch_length=64)
    with pytest.raises(UserError, match=r"lower --replay\.capacity"):
        check_memory(10**15, "10 rows")


def test_segments_are_small_against_the_capacity():
    assert segment_size(1000, 1024, 2, 16, 1.0) == 125
    assert segment_size(100_000, 1024, 2, 16, 1.0) == 1024
    assert segment_size(2000, 1024, 2, 16, 0.5) == 125
