"""Which rows windows may start at: runs of consecutive rows, and the listeners of their changes.

Letters: R runs, N picks.
"""

from bisect import bisect_right
from itertools import accumulate
from typing import Protocol

import numpy as np


class Listener(Protocol):
    """Who is told what becomes part of a pool and what leaves it; a sampler with a memory."""

    def added(self, first: int, rows: int, fresh: int) -> None:
        """The run that starts at id `first` has `rows` rows now, the last `fresh` of them new."""
        ...

    def removed(self, first: int, rows: int, before: int) -> None:
        """The rows first, ..., first + rows - 1 leave; `before` rows of their run precede them."""
        ...


class Pool:
    """Rows that windows are drawn from. A window lies within one run of consecutive ids.

    `stitched`: rows that follow each other form one run over any number of segments; otherwise
    every segment is a run of its own, so that all of them weigh the same.
    """

    def __init__(self, stitched: bool):
        self.stitched = stitched
        self._firsts: list[int] = []
        """Id of each run's first row, sorted."""
        self._rows: list[int] = []
        """Rows of each run, in the same order."""
        self._ends: dict[int, list[int]] = {}
        """Window length -> running sum of eligible starts over the runs, until the next change."""
        self.changes = 0
        """How often rows have joined or left."""
        self.listeners: list[Listener] = []

    def add(self, first: int, rows: int, *, grows: bool) -> None:
        """Rows first, ..., first + rows - 1 join; with `grows` they continue the run before."""
        at = bisect_right(self._firsts, first) - 1
        follows = at >= 0 and self._firsts[at] + self._rows[at] == first
        if follows and (grows or self.stitched):
            self._rows[at] += rows
        else:
            at += 1
            self._firsts.insert(at, first)
            self._rows.insert(at, rows)
        self._ends.clear()
        self.changes += 1
        for listener in self.listeners:
            listener.added(self._firsts[at], self._rows[at], rows)

    def remove(self, first: int, rows: int) -> None:
        """Rows first, ..., first + rows - 1 of one run leave."""
        at = bisect_right(self._firsts, first) - 1
        before = first - self._firsts[at]
        for listener in self.listeners:
            listener.removed(first, rows, before)
        after = self._rows[at] - before - rows
        left = [(self._firsts[at], before), (first + rows, after)]
        kept = [(start, count) for start, count in left if count]
        self.changes += 1
        self._firsts[at : at + 1] = [start for start, _ in kept]
        self._rows[at : at + 1] = [count for _, count in kept]
        self._ends.clear()

    def runs(self) -> list[tuple[int, int]]:
        """First id and number of rows of every run, sorted by id."""
        return list(zip(self._firsts, self._rows, strict=True))

    def eligible(self, rows: int) -> int:
        """Number of rows at which a window of `rows` rows can start."""
        return self._sums(rows)[-1]

    def holds(self, start: int, rows: int) -> bool:
        """Whether a window of `rows` rows can start at id `start`."""
        at = bisect_right(self._firsts, start) - 1
        return at >= 0 and start + rows <= self._firsts[at] + self._rows[at]

    def starts(self, picks: np.ndarray, rows: int) -> list[int]:
        """Numbers [N] from 0 to `eligible(rows)` - 1 -> the ids of those starts, in id order."""
        ends = self._sums(rows)
        places = [(bisect_right(ends, pick) - 1, pick) for pick in picks.tolist()]
        return [self._firsts[run] + pick - ends[run] for run, pick in places]

    def _sums(self, rows: int) -> list[int]:
        if rows not in self._ends:
            counts = (max(held - rows + 1, 0) for held in self._rows)
            self._ends[rows] = list(accumulate(counts, initial=0))
        return self._ends[rows]
