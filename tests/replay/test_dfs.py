"""T8: dynamic frequency sampling against closed forms; the tree that it draws from."""

from collections import Counter
from itertools import combinations, permutations
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from scipy.stats import chi2

from worldmodels.replay.dfs import Dfs
from worldmodels.replay.pool import Pool
from worldmodels.replay.sampling import Purpose
from worldmodels.replay.store import Store
from worldmodels.replay.sum_tree import SumTree

UNLIKELY = 1e-4
SEGMENT = 8


def sampler(rows, max_segments=None):
    """A sampler over one run of rows."""
    pool = Pool(stitched=True)
    store = type("Store", (), {"segment_rows": SEGMENT})()
    dfs = Dfs(pool, cast("Store", store), max_segments or -(-rows // SEGMENT))
    for first in range(0, rows, SEGMENT):
        pool.add(first, min(SEGMENT, rows - first), grows=False)
    return pool, dfs


def counted(dfs, learned=(), imagined=()):
    """Set the counters of the starts 0, 1, ..."""
    for which, counts in ((dfs._learned, learned), (dfs._imagined, imagined)):
        which[dfs._leaves(0, len(counts))] = counts
    dfs._starts.clear()


def subsets(weights, size):
    """Chance of every set in successive draws without replacement, by enumeration."""
    weights = np.asarray(weights, np.float64)
    chances = dict.fromkeys(combinations(range(len(weights)), size), 0.0)
    for order in permutations(range(len(weights)), size):
        chance, left = 1.0, list(range(len(weights)))
        for item in order:
            chance *= weights[item] / weights[left].sum()
            left.remove(item)
        chances[tuple(sorted(order))] += chance
    return chances


def p_value(counts, exact):
    total = sum(counts.values())
    assert set(counts) <= {key for key, p in exact.items() if p > 0}
    pairs = [(counts[key], total * p) for key, p in exact.items() if total * p > 5]
    statistic = sum((n - e) ** 2 / e for n, e in pairs)
    return float(chi2.sf(statistic, max(len(pairs) - 1, 1)))


def one_by_one(dfs, purpose, draws, size, learned, imagined=()):
    """Sets drawn from the same counters again and again."""
    found, random = Counter(), np.random.default_rng(1)
    ratio = dfs._ratio
    for _ in range(draws):
        counted(dfs, learned, imagined)
        dfs._ratio = ratio
        found[tuple(sorted(dfs.draw(size, 1, purpose, random)))] += 1
    return found


LEARNED = [
    [0, 5, 10, 20, 40, 3],
    [1_000_000, 1_000_010, 1_000_003, 1_000_020, 1_000_001, 1_000_000],
    [700, 700, 690, 0, 705, 710],
]


@pytest.mark.parametrize("learned", LEARNED)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_learning_draws_as_exp_of_minus_counts(learned, size):
    """Also where exp(-c / 10) of float64 is zero for all."""
    _, dfs = sampler(6)
    found = one_by_one(dfs, "learn", 3000, size, learned)
    exact = subsets(np.exp(-(np.array(learned) - min(learned)) / 10), size)
    assert p_value(found, exact) > UNLIKELY


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_imagining_draws_what_was_learned_at_least_as_often(ratio):
    """exp(min(0, c - m') / 10), m' = m over imagined windows per learned one."""
    learned, imagined = [0, 5, 50, 7, 0, 1], [40, 20, 60, 0, 0, 120]
    _, dfs = sampler(6)
    dfs._ratio = ratio
    found = one_by_one(dfs, "imagine", 3000, 2, learned, imagined)
    scores = np.minimum(0.0, np.array(learned) - np.array(imagined) / ratio)
    assert p_value(found, subsets(np.exp(scores / 10), 2)) > UNLIKELY
    published = (
        np.array(learned)
        - np.array(imagined) / ratio
        - np.maximum(0, np.array(learned) - np.array(imagined) / ratio)
    )
    np.testing.assert_allclose(scores, published)


def test_the_ratio_is_that_of_the_first_draws():
    _, dfs = sampler(64)
    random = np.random.default_rng(0)
    dfs.draw(4, 1, "learn", random)
    dfs.draw(32, 1, "imagine", random)
    assert dfs._ratio == 8
    dfs.draw(2, 1, "imagine", random)
    assert dfs._ratio == 8
    _, alone = sampler(64)
    alone.draw(32, 1, "imagine", random)
    assert alone._ratio == 1


def test_no_start_twice_in_a_batch_while_there_are_enough():
    _, dfs = sampler(40)
    random = np.random.default_rng(0)
    for purpose in ("learn", "imagine"):
        for size in (1, 17, 38):
            drawn = dfs.draw(size, 3, purpose, random)
            assert len(drawn) == len(set(drawn)) == size
            assert max(drawn) <= 37
    drawn = Counter(dfs.draw(2 * 38 + 5, 3, "learn", random))
    assert len(drawn) == 38
    assert set(drawn.values()) == {2, 3}


def test_counts_level_out_and_new_rows_come_first():
    pool, dfs = sampler(48, max_segments=7)
    random = np.random.default_rng(0)
    for _ in range(600):
        dfs.draw(8, 1, "learn", random)
    counts = dfs._learned[dfs._leaves(0, 48)]
    assert counts.sum() == 4800
    assert counts.max() - counts.min() < 40
    pool.add(48, 8, grows=False)
    fresh = sum(row >= 48 for _ in range(10) for row in dfs.draw(8, 1, "learn", random))
    assert fresh > 70


def test_a_place_that_is_used_again_counts_from_zero():
    pool, dfs = sampler(16, max_segments=3)
    random = np.random.default_rng(0)
    dfs.draw(16, 1, "learn", random)
    dfs.draw(16, 1, "imagine", random)
    for first in range(16, 800, SEGMENT):
        pool.add(first, SEGMENT, grows=False)
        assert not dfs._learned[dfs._leaves(first, SEGMENT)].any()
        assert not dfs._imagined[dfs._leaves(first, SEGMENT)].any()
        pool.remove(first - 16, SEGMENT)
        dfs.draw(20, 2, "learn", random)
        assert dfs._starts["learn", 2].eligible.sum() == pool.eligible(2) == 15


def test_saved_and_loaded_draws_are_the_same():
    pool, dfs = sampler(64, max_segments=12)
    random = np.random.default_rng(0)
    for first in (64, 72, 80):
        pool.remove(first - 64, SEGMENT)
        pool.add(first, SEGMENT, grows=False)
        dfs.draw(30, 3, "learn", random)
        dfs.draw(8, 2, "imagine", random)
    saved = {name: value.copy() for name, value in dfs.save().items()}
    again_pool, again = sampler(0, max_segments=12)
    for first, rows in pool.runs():
        again_pool.add(first, rows, grows=False)
    again.load(saved)
    one, two = np.random.default_rng(2), np.random.default_rng(2)
    purposes: list[tuple[Purpose, int]] = [("learn", 3), ("imagine", 2), ("learn", 5)]
    for purpose, rows in purposes * 20:
        assert dfs.draw(7, rows, purpose, one) == again.draw(7, rows, purpose, two)
    for name, value in dfs.save().items():
        np.testing.assert_array_equal(value, again.save()[name])


def test_a_draw_costs_the_logarithm_of_the_rows(monkeypatch):
    """Nodes of the tree that are read or written by a draw."""
    touched = []

    class Counting(np.ndarray):
        def __getitem__(self, at):
            touched.append(np.size(at))
            return np.asarray(super().__getitem__(at))

        def __setitem__(self, at, value):
            touched.append(np.size(at))
            super().__setitem__(at, value)

    costs = []
    for rows in (1 << 10, 1 << 16):
        _, dfs = sampler(rows)
        random = np.random.default_rng(0)
        dfs.draw(16, 4, "learn", random)
        tree = dfs._starts["learn", 4].weights
        tree._sums = tree._sums.view(Counting)
        touched.clear()
        dfs.draw(16, 4, "learn", random)
        costs.append(sum(touched))
    assert costs[1] < 1.2 * costs[0] * 16 / 10


@settings(deadline=None, max_examples=200)
@given(
    size=strategies.integers(1, 70),
    changes=strategies.lists(
        strategies.tuples(strategies.integers(0, 69), strategies.floats(0, 1e9)), max_size=40
    ),
)
def test_the_tree_agrees_with_running_sums(size, changes):
    tree, weights = SumTree(size), np.zeros(size)
    for leaf, weight in changes:
        leaves = np.unique(np.array([leaf % size, (leaf * 7) % size]))
        tree.set(leaves, weight)
        weights[leaves] = weight
    np.testing.assert_array_equal(tree.weights(np.arange(size)), weights)
    assert np.isclose(tree.total, weights.sum())
    if weights.sum() == 0:
        return
    ends = np.cumsum(weights)
    targets = np.random.default_rng(0).random(200) * tree.total
    found = tree.find(targets)
    assert (weights[found] > 0).all()
    slack = 1e-9 * tree.total
    assert (targets <= ends[found] + slack).all()
    assert (targets >= ends[found] - weights[found] - slack).all()


def test_windows_that_reach_into_what_left_cannot_start():
    """Also where a segment leaves from the middle of a run."""
    pool, dfs = sampler(40)
    random = np.random.default_rng(0)
    for rows in (1, 3, 12):
        dfs.draw(2, rows, "learn", random)
    pool.remove(16, SEGMENT)
    for rows in (1, 3, 12):
        starts = [first + at for first, held in pool.runs() for at in range(held - rows + 1)]
        assert dfs._starts["learn", rows].eligible.sum() == len(starts) == pool.eligible(rows)
        assert set(dfs.draw(len(starts), rows, "learn", random)) == set(starts)
