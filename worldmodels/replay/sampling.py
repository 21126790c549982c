"""Where windows start: uniformly, recent ones first, or in several ways by turns.

Letters: N drawn windows of T rows.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal, Protocol, TypeAlias

import numpy as np

from worldmodels.replay.files import Prefixed
from worldmodels.replay.pool import Pool
from worldmodels.replay.store import Store

Purpose: TypeAlias = Literal["learn", "imagine"]


class Sampler(Protocol):
    """Draws from one pool; built from the pool, the store and the pool's largest number of
    segments.
    """

    def draw(
        self,
        count: int,
        rows: int,
        purpose: Purpose,
        random: np.random.Generator,
        batch: int | None = None,
    ) -> list[int]:
        """Ids of the first rows of `count` windows of `rows` rows; the pool has at least one.

        `batch`: windows of the whole batch, where these are only a part of it.
        """
        ...

    def served(self, starts: Sequence[int], purpose: Purpose, batch: int) -> None:
        """A batch was served, and with it these windows that this sampler did not draw."""
        ...

    def save(self) -> dict[str, np.ndarray]:
        """What a checkpoint has to hold."""
        ...

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Inverse of `save`, over a pool that holds the same rows."""
        ...


class Memoryless:
    """A sampler that remembers nothing."""

    def served(self, starts: Sequence[int], purpose: Purpose, batch: int) -> None:
        """Nothing is remembered."""

    def save(self) -> dict[str, np.ndarray]:
        """Nothing is remembered."""
        return {}

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Nothing is remembered."""


class Uniform(Memoryless):
    """Every eligible start is as likely as any other, with replacement."""

    def __init__(self, pool: Pool, store: Store, max_segments: int):
        self._pool = pool

    def draw(
        self,
        count: int,
        rows: int,
        purpose: Purpose,
        random: np.random.Generator,
        batch: int | None = None,
    ) -> list[int]:
        """N independent starts."""
        return self._pool.starts(random.integers(self._pool.eligible(rows), size=count), rows)


class Recency(Memoryless):
    """A start is as likely as it is recent: p is proportional to 1 + the time since the oldest.

    The triangular, recency-weighted index of Continual-Dreamer (Kessler et al. 2023, arXiv
    2211.15944), where time is the number of rows that a lane had seen; by rejection.
    """

    def __init__(self, pool: Pool, store: Store, max_segments: int):
        self._pool, self._store = pool, store
        self._span: tuple[tuple[int, int], tuple[int, int]] = (-1, 0), (0, 0)
        """(changes of the pool, window length) and what held then: (oldest time, span)."""

    def draw(
        self,
        count: int,
        rows: int,
        purpose: Purpose,
        random: np.random.Generator,
        batch: int | None = None,
    ) -> list[int]:
        """N independent starts."""
        key = self._pool.changes, rows
        if self._span[0] != key:
            runs = [(first, held) for first, held in self._pool.runs() if held >= rows]
            oldest = min(self._time(first) for first, _ in runs)
            newest = max(self._time(first + held - rows) for first, held in runs)
            self._span = key, (oldest, newest - oldest + 1)
        oldest, span = self._span[1]
        drawn: list[int] = []
        while len(drawn) < count:
            picks = random.integers(self._pool.eligible(rows), size=2 * count)
            kept = random.random(len(picks)) * span
            starts = self._pool.starts(picks, rows)
            drawn += [
                s for s, k in zip(starts, kept, strict=True) if k < self._time(s) - oldest + 1
            ]
        return drawn[:count]

    def _time(self, row: int) -> int:
        segment, offset = self._store.place(row)
        return segment.born + offset


class Mix:
    """Each window comes from one of several samplers, by its share."""

    def __init__(self, parts: Sequence[tuple[Sampler, float]]):
        self._parts = [part for part, _ in parts]
        shares = np.array([share for _, share in parts])
        self._shares = shares / shares.sum()

    def draw(
        self,
        count: int,
        rows: int,
        purpose: Purpose,
        random: np.random.Generator,
        batch: int | None = None,
    ) -> list[int]:
        """N windows in random numbers of each part."""
        counts = random.multinomial(count, self._shares).tolist()
        drawn: list[list[int]] = []
        for part, share in zip(self._parts, counts, strict=True):
            drawn.append(part.draw(share, rows, purpose, random, batch or count) if share else [])
        for place, part in enumerate(self._parts):
            others = [*chain(*drawn[:place], *drawn[place + 1 :])]
            part.served(others, purpose, batch or count)
        return [*chain(*drawn)]

    def served(self, starts: Sequence[int], purpose: Purpose, batch: int) -> None:
        """Tell the parts."""
        for part in self._parts:
            part.served(starts, purpose, batch)

    def save(self) -> dict[str, np.ndarray]:
        """What the parts remember."""
        return {
            f"{place}/{name}": value
            for place, part in enumerate(self._parts)
            for name, value in part.save().items()
        }

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Inverse of `save`."""
        for place, part in enumerate(self._parts):
            part.load(Prefixed(saved, f"{place}/"))


def toss(count: int, shares: list[float], coin: str, random: np.random.Generator) -> list[int]:
    """How many of `count` windows come from each pool: one coin a `batch`, or one a `row`."""
    if len(shares) == 1:
        return [count]
    weights = np.array(shares) / sum(shares)
    if coin == "row":
        return random.multinomial(count, weights).tolist()
    winner = random.choice(len(shares), p=weights)
    return [count if place == winner else 0 for place in range(len(shares))]


class OnlineQueue:
    """Windows that nobody has seen, so that each new row is learned from once and soon.

    Each lane's windows lie `stride` rows apart and hold `rows` rows: the rows beyond `stride`
    are burn-in, which a window shares with the one before.
    """

    def __init__(self, stride: int, rows: int, num_lanes: int, limit: int):
        self._stride = stride
        self._rows = rows
        self._begin = np.full(num_lanes, -1, np.int64)
        """[E]: first row of the window that each lane is filling."""
        self._last = np.full(num_lanes, -1, np.int64)
        """[E]: the row that came last; ids are skipped where a lane was cut."""
        self._waiting: deque[int] = deque(maxlen=limit)
        """The newest `limit` windows; with a limit of 0 the queue is off."""

    def added(self, ids: np.ndarray) -> None:
        """Note the rows ids [E] that just arrived."""
        follows = (self._begin >= 0) & (ids == self._last + 1)
        self._begin = np.where(follows, self._begin, ids)
        self._last = ids
        full = ids - self._begin + 1 == self._rows
        if full.any():
            self._waiting.extend(self._begin[full].tolist())
            self._begin[full] += self._stride

    def take(self, store: Store, count: int, rows: int) -> list[int]:
        """At most `count` starts of unseen windows that are still resident, oldest first."""
        starts: list[int] = []
        while rows == self._rows and self._waiting and len(starts) < count:
            start = self._waiting.popleft()
            if store.holds(start, rows):
                starts.append(start)
        return starts

    def save(self) -> dict[str, list[int]]:
        """Plain values for a checkpoint."""
        return {
            "begin": self._begin.tolist(),
            "last": self._last.tolist(),
            "waiting": list(self._waiting),
        }

    def load(self, saved: dict[str, list[int]]) -> None:
        """Inverse of `save`."""
        self._begin = np.array(saved["begin"], np.int64)
        self._last = np.array(saved["last"], np.int64)
        self._waiting = deque(saved["waiting"], self._waiting.maxlen)
