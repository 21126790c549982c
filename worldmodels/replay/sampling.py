"""Where windows start: fresh ones first, then uniformly over every eligible row."""

from bisect import bisect_right
from collections import deque
from itertools import accumulate

import numpy as np

from worldmodels.replay.store import Store


def eligible(store: Store, rows: int) -> int:
    """Number of rows at which a window of `rows` resident, consecutive rows can start."""
    return sum(max(held - rows + 1, 0) for _, held in store.spans())


class Uniform:
    """Every eligible start is as likely as any other, with replacement."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)

    def draw(self, store: Store, count: int, rows: int) -> list[int]:
        """Ids of the first rows of `count` windows."""
        spans = store.spans()
        ends = list(accumulate((max(held - rows + 1, 0) for _, held in spans), initial=0))
        if ends[-1] == 0:
            raise ValueError(
                f"replay holds {store.rows} rows but no {rows} consecutive ones; collect more "
                "before sampling, or sample shorter windows"
            )
        starts = []
        for pick in self.generator.integers(ends[-1], size=count).tolist():
            span = bisect_right(ends, pick) - 1
            starts.append(spans[span][0] + pick - ends[span])
        return starts


class OnlineQueue:
    """Windows that nobody has seen, so that each new row is learned from once and soon.

    Each lane's windows lie `stride` rows apart and hold `rows` rows: the rows beyond `stride`
    are burn-in, which a window shares with the one before.
    """

    def __init__(self, stride: int, rows: int, num_lanes: int, limit: int):
        self._stride = stride
        self._rows = rows
        self._begin = np.full(num_lanes, -1, np.int64)
        """[E]: first row of the window that each lane is filling; -1 before its first row."""
        self._waiting: deque[int] = deque(maxlen=limit)
        """The newest `limit` windows; with a limit of 0 the queue is off."""

    def added(self, ids: np.ndarray) -> None:
        """Note the rows ids [E] that just arrived."""
        self._begin = np.where(self._begin < 0, ids, self._begin)
        full = ids - self._begin + 1 == self._rows
        if full.any():
            self._waiting.extend(self._begin[full].tolist())
            self._begin[full] += self._stride

    def cut(self, lane: int) -> None:
        """Begin the lane's next window at its next row."""
        self._begin[lane] = -1

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
        return {"begin": self._begin.tolist(), "waiting": list(self._waiting)}

    def load(self, saved: dict[str, list[int]]) -> None:
        """Inverse of `save`."""
        self._begin = np.array(saved["begin"], np.int64)
        self._waiting = deque(saved["waiting"], self._waiting.maxlen)
