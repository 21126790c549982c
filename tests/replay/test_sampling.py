"""Where windows start (T5), the online queue, and memory that is never shared."""

import numpy as np
import pytest
import torch


def starts_of(batch) -> list[int]:
    return batch.index[:, 0].tolist()


@pytest.mark.parametrize(("rows", "length"), [(60, 1), (60, 7), (500, 7), (500, 20)])
def test_every_eligible_start_is_equally_likely(toys, rows, length):
    """Also after eviction, over a cut, and in the open tail: chi-square over all starts."""
    stream = toys.Stream(2)
    replay = toys.replay(2, capacity=300, batch_length=length, seed=3)
    stream.add_to(replay, rows - 20)
    replay.end_lane(1)
    ids = stream.add_to(replay, 20)
    eligible = replay.eligible(length)
    counts: dict[int, int] = {}
    draws = 200 * eligible
    for _ in range(draws // 100):
        for start in starts_of(replay.sample(100, length)):
            counts[start] = counts.get(start, 0) + 1
    assert len(counts) == eligible
    assert max(ids) - length + 1 in counts
    expected = draws // 100 * 100 / eligible
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = eligible - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_eligible_counts_and_too_few_rows(toys):
    stream, replay = toys.Stream(2), toys.replay(2)
    assert not replay.can_sample(1)
    with pytest.raises(ValueError, match="holds 0 rows"):
        replay.sample(4, 1)
    stream.add_to(replay, 5)
    assert replay.rows == 10
    assert [replay.eligible(length) for length in (1, 4, 5, 6)] == [10, 4, 2, 0]
    with pytest.raises(ValueError, match="no 6 consecutive"):
        replay.sample(4, 6)


def test_no_window_crosses_a_cut(toys):
    stream, replay = toys.Stream(2), toys.replay(2)
    stream.add_to(replay, 13)
    replay.end_lane(0)
    stream.add_to(replay, 3)
    assert replay.eligible(4) == (13 - 3) + 0 + (16 - 3)
    replay.end_lane(0)
    stream.add_to(replay, 8)
    assert replay.eligible(4) == 10 + 0 + 5 + 21
    for _ in range(50):
        stream.check(replay.sample(8, 4))


def test_online_windows_come_first_and_once(toys):
    stream = toys.Stream(2)
    replay = toys.replay(2, online=True, batch_length=5)
    stream.add_to(replay, 23)
    fresh = [start for _ in range(2) for start in starts_of(replay.sample(3, 5))]
    lanes = [0, 1 << 40]
    assert fresh == [lane + 5 * window for window in range(3) for lane in lanes]
    stream.add_to(replay, 7)
    replay.sample(4, 5, "imagine")
    replay.sample(4, 4)
    batch = replay.sample(5, 5)
    assert starts_of(batch)[:4] == [lane + start for start in (15, 20) for lane in lanes]
    stream.check(batch)


def test_online_windows_never_cross_a_cut_and_may_be_gone(toys):
    stream = toys.Stream(1)
    replay = toys.replay(1, online=True, batch_length=5, capacity=60)
    stream.add_to(replay, 8)
    replay.end_lane(0)
    after = stream.add_to(replay, 15)
    assert starts_of(replay.sample(4, 5)) == [0, after[0], after[5], after[10]]
    stream.add_to(replay, 200)
    for _ in range(30):
        stream.check(replay.sample(4, 5))


def test_online_windows_bring_their_burnin(toys):
    stream = toys.Stream(1)
    replay = toys.replay(1, online=True, batch_length=5, carry="burnin:2")
    stream.add_to(replay, 17)
    batch = replay.sample(3, 5)
    assert batch.burnin == 2
    assert batch.index.shape == (3, 7)
    learned = batch.index[:, 2:].flatten().tolist()
    assert learned == list(range(2, 17))


def test_a_batch_owns_its_memory(toys):
    """Large batches reuse memory, but only that of batches nobody can see any more."""
    stream = toys.Stream(2)
    replay = toys.replay(2, capacity=30_000, batch_length=4096, segment=64, carry="stored")
    stream.add_to(replay, 10_000)
    batch = replay.sample(64, 4096)
    assert batch.obs["image"].nbytes >= 1 << 20
    kept = batch.obs["image"].view(torch.uint8)[3:5, 7:]
    seen_by_numpy = batch.obs["where"].numpy()[:, 1:]
    before, before_numpy = kept.clone(), seen_by_numpy.copy()
    del batch
    for _ in range(4):
        other = replay.sample(64, 4096)
        for leaf in (*other.obs.values(), other.reward, other.prev_action, other.reset):
            leaf.zero_()
        assert other.carry is not None
        for leaf in other.carry.values():
            leaf.fill_(7)
    assert torch.equal(kept, before)
    np.testing.assert_array_equal(seen_by_numpy, before_numpy)
    stream.check(replay.sample(2, 50))


def test_the_seed_decides(toys):
    def batches(seed):
        stream, replay = toys.Stream(2), toys.replay(2, seed=seed)
        stream.add_to(replay, 50)
        return [starts_of(replay.sample(4, 4)) for _ in range(5)]

    assert batches(1) == batches(1)
    assert batches(1) != batches(2)
