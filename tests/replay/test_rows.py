"""What is stored is what arrived (T3, T4)."""

import numpy as np
import pytest

from worldmodels.errors import UserError


@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("length", [1, 4, 19])
def test_windows_are_what_arrived(toys, action, lanes, length):
    stream = toys.Stream(lanes, seed=length, action=action)
    replay = toys.replay(lanes, action=action, capacity=400, batch_length=length)
    stream.add_to(replay, 200)
    for _ in range(20):
        stream.check(replay.sample(8, length))


def test_rows_follow_each_other_as_flagged(toys):
    stream = toys.Stream(3)
    replay = toys.replay(3, capacity=400, batch_length=16)
    stream.add_to(replay, 300)
    for _ in range(50):
        batch = replay.sample(8, 16)
        lane, episode, time = batch.obs["where"].long().unbind(-1)
        assert (lane.diff(dim=1) == 0).all()
        first, last = batch.is_first[:, 1:], batch.is_last[:, :-1]
        assert (first == last).all()
        assert (episode.diff(dim=1) == first).all()
        assert (time[:, 1:] == (time[:, :-1] + 1) * ~first).all()
        assert (batch.is_first == (time == 0)).all()
        assert not (batch.is_terminal & ~batch.is_last).any()
        none = batch.prev_action.sum(-1) == 0
        assert (none == batch.is_first).all()


def test_rewards_and_last_rows_are_all_there(toys):
    stream = toys.Stream(2)
    replay = toys.replay(2, capacity=1000, segment=16)
    ids = stream.add_to(replay, 300)
    seen = {}
    while len(seen) < len(ids):
        batch = replay.sample(64, 1)
        for b, row in enumerate(batch.index[:, 0].tolist()):
            seen[row] = (float(batch.reward[b, 0]), bool(batch.is_last[b, 0]))
    for name, place in (("reward", 0), ("is_last", 1)):
        assert np.isclose(
            sum(row[place] for row in seen.values()),
            sum(float(row[name]) for row in stream.log.values()),
        )


def test_a_row_that_breaks_the_spec_is_refused(toys):
    stream, replay = toys.Stream(2), toys.replay(2)
    step, action = stream.step()
    step.obs["where"] = step.obs["where"].astype(np.float64)
    with pytest.raises(UserError, match="'where' of toy arrived as float64"):
        replay.add(step, action)
    step, action = stream.step()
    with pytest.raises(ValueError, match=r"within -1\.\.2"):
        replay.add(step, np.full(2, 3))
    with pytest.raises(ValueError, match="prev_action has shape"):
        replay.add(step, action[:1])
    step, action = toys.Stream(3).step()
    with pytest.raises(ValueError, match="a step of 3 was added to a replay of 2 lanes"):
        replay.add(step, action)
    assert replay.rows == 0


def test_ids_name_lane_and_position(toys):
    stream, replay = toys.Stream(3), toys.replay(3)
    for position in range(20):
        assert stream.add_to(replay) == [(lane << 40) | position for lane in range(3)]
