"""T1, T2: a reservoir keeps a uniform, or a weighted, sample of all rollouts that ever closed."""

from collections import Counter
from itertools import combinations, permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from worldmodels.envs.spec import Step
from worldmodels.replay.retention import Reservoir, RewardWeighted, Room
from worldmodels.replay.segment import Segment

ROWS = 4
UNLIKELY = 1e-4


def reservoir(size, seed, kind: Any = Reservoir) -> Any:
    return kind(Room(size * ROWS, ROWS, window=2, lanes=1, seed=seed))


def segment(number, rows=ROWS):
    return Segment(number * ROWS, number * ROWS, slot=0, rows=rows, open=False)


def kept(which) -> list[int]:
    return sorted(first // ROWS for first in which._segments)


def offer(which, numbers, rewards: Any = None):
    for number in numbers:
        reward = None if rewards is None else np.array([rewards[number]], np.float32)
        which.closed(segment(number), SimpleNamespace(reward=reward))
    return which


def hypergeometric_p(counts, whole, size, number):
    """Chi-square of counts of a sample of `size` out of `number`, drawn without replacement."""
    expected = size * np.array(whole) / number
    statistic = (number - 1) / (number - size) * ((counts - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, len(counts) - 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_eighth_of_100_000_rollouts_is_as_likely(seed):
    size, number = 1000, 100_000
    found = kept(offer(reservoir(size, seed), range(number)))
    assert len(found) == size
    counts = np.bincount(np.array(found) * 8 // number, minlength=8)
    assert hypergeometric_p(counts, [number // 8] * 8, size, number) > UNLIKELY


def test_every_eighth_of_100_000_rollouts_that_were_added(toys):
    """Through the replay itself, rows and all, with a task that changes on the way."""
    lanes, number, size = 32, 100_000, 1000
    replay = toys.replay(
        lanes, retention="reservoir", capacity=size * ROWS, segment=ROWS, batch_length=2, seed=4
    )
    step, action = toys.Stream(lanes).step()
    rows = number // lanes * ROWS
    for time in range(rows):
        task = np.full(lanes, [0, 1, 2][int(time > rows * 0.2) + int(time > rows * 0.7)], np.int32)
        replay.add(Step(**{**vars(step), "task": task}), action)
    segments = replay._retention._segments.values()
    assert len(segments) == size
    eighths = np.bincount([s.born * 8 // rows for s in segments], minlength=8)
    assert hypergeometric_p(eighths, [number // 8] * 8, size, number) > UNLIKELY
    tasks = np.bincount(
        [int(replay._layout.rollout(lambda s=s: replay._store.arrays(s)).task[0]) for s in segments]
    )
    parts = [0.2 * number, 0.5 * number, 0.3 * number]
    assert hypergeometric_p(tasks, parts, size, number) > UNLIKELY
    lane = np.bincount([s.lane for s in segments], minlength=lanes)
    assert hypergeometric_p(lane, [number // lanes] * lanes, size, number) > UNLIKELY


@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_every_item_and_every_task_over_many_runs(seed):
    """Inclusion K/N of each item; the variance of a task's count is hypergeometric."""
    size, number, runs, first_task = 20, 160, 150, 48
    counts, tasks = np.zeros(number), []
    for run in range(runs):
        found = kept(offer(reservoir(size, seed + run), range(number)))
        counts[found] += 1
        tasks.append(sum(item < first_task for item in found))
    share = size / number
    expected = runs * share
    statistic = (number - 1) / number * ((counts - expected) ** 2).sum() / (expected * (1 - share))
    assert UNLIKELY < chi2.sf(statistic, number - 1) < 1 - UNLIKELY
    part = first_task / number
    variance = size * part * (1 - part) * (number - size) / (number - 1)
    assert abs(np.mean(tasks) - size * part) < 4 * np.sqrt(variance / runs)
    assert abs(np.var(tasks, ddof=1) / variance - 1) < 4 * np.sqrt(2 / (runs - 1))


def exact_subsets(weights, size):
    """Successive draws without replacement, by enumeration of all orders."""
    chances = dict.fromkeys(combinations(range(len(weights)), size), 0.0)
    for order in permutations(range(len(weights)), size):
        chance, left = 1.0, sum(weights)
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        chances[tuple(sorted(order))] += chance
    return chances


@pytest.mark.parametrize("rewards", [[0.0, 0.5, 1.0, 1.5, -1.0], [2.0, 0.0, 0.0, 0.0, 2.0]])
def test_reward_weights_against_exact_probabilities(rewards):
    size, runs = 2, 4000
    exact = exact_subsets(np.exp(rewards), size)
    found = Counter(
        tuple(kept(offer(reservoir(size, run, RewardWeighted), range(len(rewards)), rewards)))
        for run in range(runs)
    )
    statistic = sum((found[s] - runs * p) ** 2 / (runs * p) for s, p in exact.items())
    assert chi2.sf(statistic, len(exact) - 1) > UNLIKELY
    uniform = sum((found[s] - runs / len(exact)) ** 2 / (runs / len(exact)) for s in exact)
    assert chi2.sf(uniform, len(exact) - 1) < UNLIKELY


def test_returns_of_any_size_do_not_overflow():
    rewards = [1e6, -1e6, 1e6 + 50, 0.0, 1e6 + 100]
    assert kept(offer(reservoir(2, 0, RewardWeighted), range(5), rewards)) == [2, 4]


def test_neither_order_nor_restarts_nor_other_rows_change_the_sample(toys, tmp_path):
    random = np.random.default_rng(0)
    expected = kept(offer(reservoir(20, 7), range(300)))
    for _ in range(5):
        assert kept(offer(reservoir(20, 7), random.permutation(300))) == expected
    which = reservoir(20, 7)
    for number in range(300):
        offer(which, [number])
        if random.random() < 0.1:
            again = reservoir(20, 7)
            again.load(which.save(), {n * ROWS: segment(n) for n in kept(which)})
            which = again
    assert kept(which) == expected
    assert kept(offer(reservoir(10, 7), range(300))) == kept(
        offer(reservoir(10, 7), expected)
    )  # fewer places hold the largest keys
    assert kept(offer(reservoir(20, 8), range(300))) != expected


def test_a_short_rollout_counts_once_and_a_useless_one_never():
    which = reservoir(3, 0)
    useless = segment(0, rows=1)
    assert which.closed(useless, None) == [useless]
    assert not which.holds(useless)
    short = segment(1, rows=2)
    assert which.closed(short, None) == []
    assert which._pool.runs() == [(short.first, 2)]


def test_the_sample_within_wmar_is_the_sample_alone(toys):
    """FIFO beside it changes nothing, and its own rows are exactly the newest."""
    alone = toys.replay(2, retention="reservoir", capacity=120, segment=5, seed=3)
    both = toys.replay(2, retention="wmar", capacity=240, segment=5, seed=3)
    fifo = toys.replay(2, capacity=120, segment=5, seed=3)
    streams = [toys.Stream(2) for _ in range(3)]
    random = np.random.default_rng(1)
    for _ in range(600):
        added = [s.add_to(r) for s, r in zip(streams, (alone, both, fifo), strict=True)]
        assert added[0] == added[1] == added[2]
        if random.random() < 0.02:
            for replay in (alone, both, fifo):
                replay.end_lane(1)
        parts = both._retention._parts
        assert set(parts["reservoir"]._segments) == set(alone._retention._segments)
        assert list(parts["fifo"]._segments) == list(fifo._retention._segments)
        ours = {*parts["reservoir"]._segments, *parts["fifo"]._segments}
        assert set(both._store.segments) == ours
    assert len(alone._retention._segments) == 24


def test_high_returns_stay_where_rewards_weigh(toys):
    def mean_return(retention):
        stream = toys.Stream(2)
        replay = toys.replay(2, retention=retention, capacity=160, segment=8, seed=1)
        returns = {}
        for _ in range(1600):
            stream.add_to(replay)
        for first in sorted(stream.log):
            place = first & ~7
            returns[place] = returns.get(place, 0.0) + float(stream.log[first]["reward"])
        kept = [returns[first] for first in replay._retention._segments]
        assert len(kept) == 20
        return np.mean(kept), np.quantile(list(returns.values()), 0.8)

    uniform, _ = mean_return("reservoir")
    weighted, high = mean_return("reward_weighted")
    assert weighted > high > uniform


@pytest.mark.parametrize("retention", ["coverage", "reservoir"])
def test_rare_rollouts_stay_where_coverage_counts(toys, retention):
    """Rollouts of one look, and three that look different, long ago."""
    replay = toys.replay(1, retention=retention, capacity=64, segment=8, seed=2)
    stream = toys.Stream(1)
    random = np.random.default_rng(0)
    base = random.integers(0, 2, (1, 2, 2, 1)).astype(np.uint8) * 255
    rare = {20: 3.0, 45: -4.0, 60: 7.0}
    for rollout in range(300):
        for _ in range(8):
            step, action = stream.step()
            step.obs["image"] = base if rollout not in rare else 255 - base
            step.obs["planes"][:] = rollout in rare
            step.obs["where"][:] = rare.get(rollout, random.normal(0, 0.01))
            replay.add(step, action)
    kept_now = {first // 8 for first in replay._retention._segments}
    assert len(kept_now) == 8
    assert (set(rare) <= kept_now) == (retention == "coverage")


@pytest.mark.parametrize("retention", ["reservoir", "reward_weighted", "coverage", "wmar"])
def test_a_restored_sample_goes_on_as_if_nothing_had_happened(toys, tmp_path, retention):
    options = {"retention": retention, "capacity": 160, "segment": 5, "sampling": "uniform+dfs"}
    replay = toys.replay(2, tmp_path / "rows", **options)
    toys.Stream(2).add_to(replay, 300)
    replay.sample(8, 4)
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")

    def continued(which):
        stream, seen = toys.Stream(2, seed=6), []
        for _ in range(40):
            stream.add_to(which, 7)
            seen.append(which.sample(8, 4).index.tolist())
        return seen, sorted(which._store.segments)

    expected = continued(replay)
    for _ in range(2):
        again = toys.replay(2, tmp_path / "rows", **options)
        again.restore(tmp_path / "at")
        assert continued(again) == expected


def test_an_open_rollout_that_fifo_drops_is_offered_to_the_reservoir(toys):
    """Lanes that are cut all the time make the one that is still being written the oldest."""
    stream = toys.Stream(4)
    replay = toys.replay(4, retention="wmar", capacity=256, segment=8)
    for _ in range(60):
        stream.add_to(replay)
        for lane in (1, 2, 3):
            replay.end_lane(lane)
    long_term = replay._retention._parts["reservoir"]._segments.values()
    assert {s.rows for s in long_term if s.lane == 0} & {4, 5, 6, 7}
