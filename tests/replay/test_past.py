"""A recorded past is added to one lane before all lanes go on."""

import numpy as np
import pytest

LENGTH = 4


def fill(toys, replay, rows: int, lane: int = 0):
    """`rows` rows into one lane; returns their log by id."""
    stream = toys.Stream(1, seed=9)
    log = {}
    for _ in range(rows):
        step, action = stream.step()
        (row,) = replay.add(step, action, [lane]).tolist()
        log[row] = stream._row(step, action, 0)
    replay.end_lane(lane)
    return log


@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar"])
@pytest.mark.parametrize("storage", ["ram", "disk", "device"])
def test_every_lane_goes_on_behind_the_past(toys, tmp_path, storage, retention):
    options = {"retention": retention, "storage": storage, "capacity": 1200, "coin": "row"}
    replay = toys.replay(3, tmp_path / "rows", batch_length=LENGTH, **options)
    log = fill(toys, replay, 200, lane=1)
    stream = toys.Stream(3)
    stream.log.update(log)
    stream.check(replay.sample(16, LENGTH))
    stream.add_to(replay, 50)
    seen = np.concatenate([replay.sample(32, LENGTH).index.ravel() for _ in range(40)])
    assert {*(seen >> 40).tolist()} == {0, 1, 2}
    stream.check(replay.sample(16, LENGTH))
    assert replay.rows <= len(stream.log) == 200 + 3 * 50


def test_the_past_is_not_fresh(toys):
    replay = toys.replay(2, online=True, batch_length=LENGTH)
    log = fill(toys, replay, 100)
    stream = toys.Stream(2)
    fresh = stream.add_to(replay, 2 * LENGTH)
    served = replay.sample(4, LENGTH).index.ravel().tolist()
    assert sorted(served) == sorted(fresh)
    assert not {*served} & {*log}


def test_a_killed_process_loses_nothing_of_the_past(toys, tmp_path):
    replay = toys.replay(2, tmp_path, batch_length=LENGTH)
    log = fill(toys, replay, 61, lane=1)
    replay = toys.replay(2, tmp_path, batch_length=LENGTH)
    recovered = replay.recover()
    assert (recovered.rows, recovered.lost) == (61, 0)
    stream = toys.Stream(2)
    stream.log.update(log)
    stream.check(replay.sample(16, LENGTH))


def test_as_many_rows_as_lanes(toys):
    replay = toys.replay(2)
    step, action = toys.Stream(2).step()
    with pytest.raises(ValueError, match="a step of 2 was added to a replay of 1 lanes"):
        replay.add(step, action, [0])
