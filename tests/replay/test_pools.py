"""T5, T6: every window of a pool is as likely as any other; the coin between pools is fair."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2

from worldmodels.replay.pool import Pool
from worldmodels.replay.sampling import toss

UNLIKELY = 1e-4
SHARES = [0.5, 0.25]


def counted(replay, draws, length=3, batch=100):
    counts = Counter()
    for _ in range(draws // batch):
        counts.update(replay.sample(batch, length).index[:, 0].tolist())
    return counts


def windows(retention, length, *, stitched):
    """Starts by brute force over the segments of a retention."""
    pieces = [(s.first, s.rows) for s in retention._segments.values()]
    if not stitched:
        return [first + at for first, rows in pieces for at in range(rows - length + 1)]
    held = {first + at for first, rows in pieces for at in range(rows)}
    return [row for row in held if all(row + t in held for t in range(length))]


def chance(counts, expected: dict[int, float]) -> float:
    assert set(counts) <= set(expected)
    statistic = sum((counts[s] - e) ** 2 / e for s, e in expected.items())
    return float(chi2.sf(statistic, len(expected) - 1))


def filled(toys, rows=400, cuts=37, **options):
    stream = toys.Stream(2)
    replay = toys.replay(2, **{"capacity": 160, "segment": 8, "batch_length": 3, **options})
    for time in range(rows):
        stream.add_to(replay)
        if time % cuts == 0:
            replay.end_lane(time // cuts % 2)
    return stream, replay


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("storage", ["ram", "device"])
def test_starts_are_uniform_within_rollouts_of_a_reservoir(toys, seed, storage):
    _, replay = filled(toys, cuts=7, retention="reservoir", seed=seed, storage=storage)
    starts = windows(replay._retention, 3, stitched=False)
    assert len({s.rows for s in replay._retention._segments.values()}) > 1
    assert replay.eligible(3) == len(starts)
    counts = counted(replay, 100 * len(starts))
    expected = sum(counts.values()) / len(starts)
    assert chance(counts, dict.fromkeys(starts, expected)) > UNLIKELY


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("coin", ["batch", "row"])
def test_wmar_draws_from_both_by_their_shares(toys, coin, share):
    """Each start: the share of its pool over the pool's starts, summed over the pools."""
    options = {"retention": "wmar", "capacity": 320, "coin": coin, "long_term_share": share}
    _, replay = filled(toys, rows=600, seed=5, segment=5, **options)
    parts = replay._retention._parts
    recent = windows(parts["fifo"], 3, stitched=True)
    long_term = windows(parts["reservoir"], 3, stitched=False)
    assert set(recent) & set(long_term)
    draws = 60_000
    counts = counted(replay, draws, batch=4)
    expected = dict.fromkeys({*recent, *long_term}, 0.0)
    for starts, part in ((recent, 1 - share), (long_term, share)):
        for start in starts:
            expected[start] += draws * part / len(starts)
    if coin == "row":
        assert chance(counts, expected) > UNLIKELY
    else:  # windows of a batch share their pool, so counts vary more
        only = set(long_term) - set(recent)
        found = sum(counts[start] for start in only) / draws
        wanted = sum(expected[start] for start in only) / draws
        assert abs(found - wanted) < 4 * np.sqrt(share * (1 - share) / (draws / 4))


@pytest.mark.parametrize("share", SHARES)
def test_one_coin_a_batch_or_a_row(toys, share):
    """10 000 tosses within 4 standard deviations; a batch is of one pool, or of both."""
    for coin in ("batch", "row"):
        options = {"retention": "wmar", "capacity": 320, "coin": coin, "long_term_share": share}
        _, replay = filled(toys, rows=50, segment=5, seed=7, **options)
        shares = [part for _, part in replay._retention.pools.values()]
        assert shares == [1 - share, share]
        tosses = np.array([toss(10, shares, coin, replay._random) for _ in range(10_000)])
        assert (tosses.sum(1) == 10).all()
        assert (set(tosses[:, 1]) == {0, 10}) == (coin == "batch")
        count = 10_000 if coin == "batch" else 100_000
        found = tosses[:, 1].sum() / tosses.sum()
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("coin", ["batch", "row"])
def test_an_empty_reservoir_gives_its_share_away(toys, coin):
    stream, replay = toys.Stream(2), None
    replay = toys.replay(2, retention="wmar", capacity=320, segment=8, coin=coin)
    stream.add_to(replay, 6)
    assert replay.can_sample(3)
    for _ in range(50):
        stream.check(replay.sample(8, 3))
    stream.add_to(replay, 2)
    assert replay.eligible(3) == 2 * (2 * 6)


@pytest.mark.parametrize("coin", ["batch", "row"])
def test_the_coin_is_seeded_and_saved(toys, coin, tmp_path):
    options = {"retention": "wmar", "capacity": 320, "coin": coin, "segment": 5}

    def drawn(replay):
        return [replay.sample(4, 3).index.tolist() for _ in range(20)]

    _, one = filled(toys, seed=3, **options)
    _, two = filled(toys, seed=3, **options)
    np.random.seed(5)
    assert drawn(one) == drawn(two)
    one.save(tmp_path)
    expected = drawn(one)
    assert expected != drawn(filled(toys, seed=3, **options)[1])
    two.restore(tmp_path)
    assert drawn(two) == expected


@pytest.mark.parametrize("mix", ["uniform", "uniform:0.5+recency:0.5", "recency"])
def test_recency_is_a_triangle(toys, mix):
    """p ~ 1 + rows of time since the oldest start, over lanes that were cut at different times."""
    _, replay = filled(toys, rows=90, sampling=mix, seed=1)
    starts = windows(replay._retention, 3, stitched=True)
    time = np.array([s.born + row for s in replay._retention._segments.values() for row in [0]])
    assert len(set(time)) > 3
    born = {s.first: s.born for s in replay._retention._segments.values()}
    at = np.array([born[s - s % 8] + s % 8 for s in starts], np.float64)
    triangle = at - at.min() + 1
    share = {"uniform": 0.0, "recency": 1.0}.get(mix, 0.5)
    wanted = share * triangle / triangle.sum() + (1 - share) / len(starts)
    draws = 200 * len(starts)
    counts = counted(replay, draws)
    total = sum(counts.values())
    expected = dict(zip(starts, (wanted * total).tolist(), strict=True))
    assert chance(counts, expected) > UNLIKELY


def test_a_pool_counts_as_brute_force_does():
    random = np.random.default_rng(0)
    for stitched in (True, False):
        pool, pieces = Pool(stitched), []
        for position in range(0, 400, 8):
            if random.random() < 0.8:
                rows = int(random.choice([8, 8, 8, 3]))
                pool.add(position, rows, grows=False)
                pieces.append((position, rows))
            if len(pieces) > 6:
                pool.remove(*pieces.pop(int(random.integers(len(pieces)))))
            held = {p + t for p, rows in pieces for t in range(rows)}
            for length in (1, 3, 8, 11):
                if stitched:
                    starts = [r for r in held if all(r + t in held for t in range(length))]
                else:
                    starts = [p + t for p, rows in pieces for t in range(rows - length + 1)]
                assert pool.eligible(length) == len(starts)
                found = pool.starts(np.arange(len(starts)), length)
                assert found == sorted(starts)
                assert all(pool.holds(start, length) for start in starts)
                assert not any(pool.holds(r, length) for r in set(range(-3, 420)) - set(starts))
