"""Dynamic frequency-based sampling: windows that were drawn often are drawn less.

Letters: N drawn windows; c, how often a start was drawn to learn; m, how often to imagine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodels.replay.pool import Pool
from worldmodels.replay.sampling import Purpose
from worldmodels.replay.segment import POSITION
from worldmodels.replay.store import Store
from worldmodels.replay.sum_tree import SumTree

TEMPERATURE = 10.0
NEGLIGIBLE = 1e-30
"""Sum of weights below which all are scaled up."""


@dataclass(eq=False)
class _Starts:
    """Weights of the starts of windows of `rows` rows, for one purpose."""

    purpose: Purpose
    rows: int
    eligible: np.ndarray
    """bool [leaves]: a window can start here."""
    weights: SumTree
    """exp((score - base) / TEMPERATURE) where eligible, 0 elsewhere."""
    base: float = 0.0


class Dfs:
    """Drama's sampling (Wang et al. 2024, arXiv 2410.08893, and its released code).

    Learning draws a start with probability proportional to exp(-c / 10); imagination with
    exp(min(0, c - m') / 10), where m' is m divided by the imagined windows per learned window, as
    they were at the first draw for imagination. No start is drawn twice in a batch unless there
    are too few. A row's counters start at zero when it arrives.

    The weights are the leaves of sum trees, so that N draws cost O(N log rows); they are relative
    to `base`, which follows the largest score, so that they never vanish all together.
    """

    def __init__(self, pool: Pool, store: Store, max_segments: int):
        self._pool = pool
        self._segment_rows = store.segment_rows
        self._blocks: dict[int, int] = {}
        """Id of a segment's first row -> its block of `segment_rows` leaves."""
        self._free = list(range(max_segments))
        self._firsts = np.zeros(max_segments, np.int64)
        """[blocks]: inverse of `_blocks`."""
        leaves = max_segments * store.segment_rows
        self._learned = np.zeros(leaves, np.int32)
        self._imagined = np.zeros(leaves, np.int32)
        self._starts: dict[tuple[Purpose, int], _Starts] = {}
        self._waiting: list[tuple[int, int, int]] = []
        """Rows that joined since the last draw: first id of their run, first new id, end."""
        self._batch = 0
        """Windows of the last draw to learn."""
        self._ratio = 0.0
        """Imagined windows per learned window; 0 before the first draw for imagination."""
        pool.listeners.append(self)

    def draw(
        self,
        count: int,
        rows: int,
        purpose: Purpose,
        random: np.random.Generator,
        batch: int | None = None,
    ) -> list[int]:
        """Ids of the first rows of `count` windows of `rows` rows."""
        size = batch or count
        if purpose == "learn":
            self._batch = size
        elif not self._ratio:
            self._ratio = size / (self._batch or size)
        self._admit_waiting()
        leaves = self._draw(self._starts_of(purpose, rows), count, random)
        self._count(leaves, purpose)
        block, offset = np.divmod(leaves, self._segment_rows)
        return (self._firsts[block] + offset).tolist()

    def served(self, starts: Sequence[int], purpose: Purpose, batch: int) -> None:
        """They count as drawn, as far as they are rows of this pool."""
        if purpose == "learn":
            self._batch = batch
        mine = [self._leaves(start, 1) for start in starts if self._pool.holds(start, 1)]
        if mine:
            self._admit_waiting()
            self._count(np.concatenate(mine), purpose)

    def added(self, first: int, rows: int, fresh: int) -> None:
        """Fresh rows count from zero, and complete windows that start up to T - 1 rows before."""
        begin = first + rows - fresh
        leaves = self._leaves(begin, fresh)
        self._learned[leaves] = self._imagined[leaves] = 0
        self._waiting.append((first, begin, first + rows))

    def removed(self, first: int, rows: int, before: int) -> None:
        """Whole segments leave, and with them the windows that reach into them."""
        self._admit_waiting()
        for starts in self._starts.values():
            reach = min(before, starts.rows - 1)
            leaves = self._leaves(first - reach, reach + rows)
            starts.eligible[leaves] = False
            starts.weights.set(leaves, 0.0)
        for segment in range(first, first + rows, self._segment_rows):
            self._free.append(self._blocks.pop(segment))

    def save(self) -> dict[str, np.ndarray]:
        """Counters and where they are, so that the same draws follow."""
        self._admit_waiting()
        blocks = np.array(list(self._blocks.items()), np.int64).reshape(-1, 2)
        trees = [(s.purpose == "learn", s.rows, s.base) for s in self._starts.values()]
        return {
            "blocks": blocks,
            "free": np.array(self._free, np.int64),
            "learned": self._learned,
            "imagined": self._imagined,
            "sizes": np.array([self._batch, self._ratio]),
            "trees": np.array(trees, np.float64).reshape(-1, 3),
        }

    def load(self, saved: Mapping[str, np.ndarray]) -> None:
        """Inverse of `save`, over a pool that holds the same rows."""
        self._blocks = dict(saved["blocks"].tolist())
        self._free = saved["free"].tolist()
        for first, block in self._blocks.items():
            self._firsts[block] = first
        self._learned[:], self._imagined[:] = saved["learned"], saved["imagined"]
        self._batch, self._ratio = int(saved["sizes"][0]), float(saved["sizes"][1])
        self._starts.clear()
        self._waiting.clear()
        for learn, rows, base in saved["trees"].tolist():
            self._starts_of("learn" if learn else "imagine", int(rows), base)

    def _count(self, leaves: np.ndarray, purpose: Purpose) -> None:
        """Windows that start at these leaves were served."""
        np.add.at(self._learned if purpose == "learn" else self._imagined, leaves, 1)
        for each in self._starts.values():
            self._weigh(each, leaves[each.eligible[leaves]])

    def _admit_waiting(self) -> None:
        """Let windows start that the rows since the last draw completed: one update a tree."""
        for starts in self._starts.values():
            leaves = [
                self._leaves(low, end - starts.rows + 1 - low)
                for first, begin, end in self._waiting
                if (low := max(first, begin - starts.rows + 1)) <= end - starts.rows
            ]
            if leaves:
                self._make_eligible(starts, np.concatenate(leaves))
        self._waiting.clear()

    def _starts_of(self, purpose: Purpose, rows: int, base: float = 0.0) -> _Starts:
        key = purpose, rows
        if key not in self._starts:
            none = np.zeros(len(self._learned), np.bool_)
            starts = self._starts[key] = _Starts(purpose, rows, none, SumTree(len(none)), base)
            for first, held in self._pool.runs():
                self._make_eligible(starts, self._leaves(first, held - rows + 1))
        return self._starts[key]

    def _make_eligible(self, starts: _Starts, leaves: np.ndarray) -> None:
        starts.eligible[leaves] = True
        self._weigh(starts, leaves)

    def _draw(self, starts: _Starts, count: int, random: np.random.Generator) -> np.ndarray:
        """`count` leaves, in successive draws without replacement while there are any."""
        drawn: list[np.ndarray] = []
        while count > 0:
            if starts.weights.total < NEGLIGIBLE:
                left = starts.eligible.copy()
                for leaves in drawn:
                    left[leaves] = False
                if not left.any():  # every start is in the batch already: begin again
                    left = starts.eligible
                self._rebase(starts, np.flatnonzero(left))
            leaves = np.unique(starts.weights.find(random.random(count) * starts.weights.total))
            starts.weights.set(leaves, 0.0)
            drawn.append(leaves)
            count -= len(leaves)
        return np.concatenate(drawn)

    def _weigh(self, starts: _Starts, leaves: np.ndarray) -> None:
        """Set the weights of eligible leaves from their counters."""
        scores = self._scores(starts, leaves)
        if len(leaves) and scores.max() > starts.base + 100 * TEMPERATURE:
            self._rebase(starts, np.flatnonzero(starts.eligible))
        else:
            starts.weights.set(leaves, np.exp((scores - starts.base) / TEMPERATURE))

    def _rebase(self, starts: _Starts, leaves: np.ndarray) -> None:
        """Weigh these leaves relative to the largest score among them."""
        scores = self._scores(starts, leaves)
        starts.base = float(scores.max())
        starts.weights.set(leaves, np.exp((scores - starts.base) / TEMPERATURE))

    def _scores(self, starts: _Starts, leaves: np.ndarray) -> np.ndarray:
        if starts.purpose == "learn":
            return -self._learned[leaves].astype(np.float64)
        return np.minimum(self._learned[leaves] - self._imagined[leaves] / self._ratio, 0.0)

    def _leaves(self, first: int, count: int) -> np.ndarray:
        """Leaves int64 [count] of consecutive rows; a segment that is new gets a block."""
        parts = []
        while count > 0:
            offset = (first & POSITION) % self._segment_rows
            part = min(count, self._segment_rows - offset)
            begin = self._block(first - offset) * self._segment_rows + offset
            parts.append(np.arange(begin, begin + part))
            first, count = first + part, count - part
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _block(self, segment: int) -> int:
        if segment not in self._blocks:
            block = self._blocks[segment] = self._free.pop()
            self._firsts[block] = segment
        return self._blocks[segment]
