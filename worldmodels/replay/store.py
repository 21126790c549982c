"""Rows in RAM: segments of one lane's rows, and the runs of consecutive ids that they form.

A row's id is `(lane << 40) | position`. Consecutive ids are the only truth about what follows
what: a window may be read wherever its ids are consecutive and resident, over any number of
segments. Where a lane is cut, ids are skipped. Every segment starts at a position that is a
multiple of `segment_rows`, so that a row's segment follows from its id.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.buffers import BufferPool
from worldmodels.replay.files import FileRecord
from worldmodels.replay.rows import Column

LANE_SHIFT = 40
POSITION = (1 << LANE_SHIFT) - 1
"""Mask of the position within a row's id."""


@dataclass(eq=False, slots=True)
class Segment:
    """Up to `segment_rows` consecutive rows of one lane."""

    first: int
    """Id of its first row."""
    columns: dict[str, np.ndarray]
    """[segment_rows, ...] per column; only the first `rows` mean anything."""
    rows: int = 0
    file: FileRecord | None = None
    """Where its rows are on disk, once they are."""

    def filled(self, names: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """Views of the columns `names`, cut to the rows that exist."""
        return {name: self.columns[name][: self.rows] for name in names}


@dataclass(eq=False, slots=True)
class Run:
    """Resident rows first, first + 1, ..., first + rows - 1 of one lane."""

    first: int
    rows: int = 0


class Store:
    """The arena of segments. It grows beyond the reserved segments only if asked to hold more."""

    def __init__(
        self,
        row: Mapping[str, Column],
        side: Mapping[str, Column],
        num_lanes: int,
        segment_rows: int,
        reserve: int,
    ):
        self.row_columns = dict(row)
        """Written once, when the row arrives."""
        self.side_columns = dict(side)
        """Zeros when the row arrives, rewritten at any time by `scatter`."""
        self.num_lanes = num_lanes
        self.segment_rows = segment_rows
        self.allocated = 0
        """Segments that memory is held for."""
        self.segments: dict[int, Segment] = {}
        """By id of the first row, oldest first."""
        self._free = [self._allocate() for _ in range(reserve)]
        self.clear()

    def clear(self) -> None:
        """Forget every row; the memory stays."""
        self._free.extend(segment.columns for segment in self.segments.values())
        self.segments.clear()
        self.unsaved: dict[int, Segment] = {}
        """Closed segments that are not on disk."""
        self.rows = 0
        self.next_id = np.arange(self.num_lanes, dtype=np.int64) << LANE_SHIFT
        """[E]: the id that each lane's next row gets."""
        self._runs: list[Run] = []
        """Sorted by first id."""
        self._open: list[tuple[Segment, Run] | None] = [None] * self.num_lanes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, side columns included."""
        columns = [*self.row_columns.values(), *self.side_columns.values()]
        return sum(column.nbytes for column in columns)

    @property
    def opening(self) -> int:
        """Number of lanes whose next row starts a segment."""
        return self._open.count(None)

    def append(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """One row per lane, [E, ...] per column -> their ids [E]."""
        ids = self.next_id.copy()
        # All memory is taken before any row is written: a lane must never be a row ahead.
        opened = [self._open[lane] or self._start(lane) for lane in range(self.num_lanes)]
        for lane, (segment, run) in enumerate(opened):
            for name, value in values.items():
                segment.columns[name][segment.rows] = value[lane]
            segment.rows += 1
            run.rows += 1
            if segment.rows == self.segment_rows:
                self._close(lane)
        self.rows += self.num_lanes
        self.next_id += 1
        return ids

    def cut(self, lane: int) -> None:
        """Skip to the next segment, so that no window holds rows from both sides of this moment."""
        self._close(lane)
        next_id = int(self.next_id[lane])
        self.next_id[lane] += self.segment_rows - self._offset(next_id)

    def adopt(self, first: int, rows: int, file: FileRecord | None) -> Segment:
        """Register a saved segment of `rows` rows, newer than all others; the caller fills it.

        `next_id` must be set before: it tells whether the segment is still open.
        """
        lane = first >> LANE_SHIFT
        segment, run = self._start(lane, first)
        segment.rows, segment.file = rows, file
        run.rows += rows
        self.rows += rows
        if rows == self.segment_rows or first + rows != self.next_id[lane]:
            self._close(lane)
        return segment

    def oldest(self) -> Segment:
        """The segment whose first row arrived before all others'."""
        return next(iter(self.segments.values()))

    def evict_oldest(self) -> None:
        """Forget the oldest segment, which is always the front of its run."""
        segment = self.oldest()
        del self.segments[segment.first]
        self.unsaved.pop(segment.first, None)
        at = self._run_at(segment.first)
        run = self._runs[at]
        run.first += segment.rows
        run.rows -= segment.rows
        if run.rows == 0:
            del self._runs[at]
        self.rows -= segment.rows
        self._free.append(segment.columns)
        lane = segment.first >> LANE_SHIFT
        opened = self._open[lane]
        if opened is not None and opened[0] is segment:
            self.cut(lane)
            del self.unsaved[segment.first]

    def spans(self) -> list[tuple[int, int]]:
        """First id and number of rows of every run, sorted by id."""
        return [(run.first, run.rows) for run in self._runs]

    def holds(self, start: int, rows: int) -> bool:
        """Whether rows start, ..., start + rows - 1 are all resident."""
        for first, _, high, _ in self._pieces(start, rows):
            segment = self.segments.get(first)
            if segment is None or segment.rows < high:
                return False
        return True

    def read(self, starts: Sequence[int], rows: int, pool: BufferPool) -> dict[str, np.ndarray]:
        """Windows of resident rows -> freshly owned [B, rows, ...] per row column."""
        windows = [self._pieces(start, rows) for start in starts]
        columns = {}
        for name, column in self.row_columns.items():
            out = pool.take((len(windows), rows, *column.shape), column.dtype)
            for target, pieces in zip(out, windows, strict=True):
                for first, low, high, at in pieces:
                    target[at : at + high - low] = self.segments[first].columns[name][low:high]
            columns[name] = out
        return columns

    def gather(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Side columns of rows ids [N] -> [N, ...]; zeros where a row is not resident."""
        out = {
            name: np.zeros((len(ids), *column.shape), column.dtype)
            for name, column in self.side_columns.items()
        }
        for place, row in enumerate(ids.tolist()):
            offset = self._offset(row)
            segment = self.segments.get(row - offset)
            if segment is not None:
                for name, values in out.items():
                    values[place] = segment.columns[name][offset]
        return out

    def scatter(self, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Rewrite side columns [N, ...] of rows ids [N]; of equal ids the last one counts."""
        offset = self._offset(ids)
        first = ids - offset
        for key in np.unique(first).tolist():
            segment = self.segments.get(key)
            if segment is not None:
                which = np.flatnonzero((first == key) & (offset < segment.rows))
                for name, value in values.items():
                    segment.columns[name][offset[which]] = value[which]

    def _offset(self, ids):
        """Place of each row (int or int64 [N]) in its segment."""
        return (ids & POSITION) % self.segment_rows

    def _pieces(self, start: int, rows: int) -> list[tuple[int, int, int, int]]:
        """A window as (id of the segment, from row, to row, place in the window)."""
        pieces = []
        done = 0
        while done < rows:
            low = self._offset(start + done)
            count = min(rows - done, self.segment_rows - low)
            pieces.append((start + done - low, low, low + count, done))
            done += count
        return pieces

    def _run_at(self, row: int) -> int:
        """Place of the last run that starts at or before `row`, or -1."""
        return bisect_right(self._runs, row, key=lambda run: run.first) - 1

    def _start(self, lane: int, first: int | None = None) -> tuple[Segment, Run]:
        """Open a segment for the lane, in the run that ends just before it or in a new one."""
        first = int(self.next_id[lane]) if first is None else first
        columns = self._free.pop() if self._free else self._allocate()
        for name in self.side_columns:
            columns[name][...] = np.zeros((), columns[name].dtype)
        segment = self.segments[first] = Segment(first, columns)
        at = self._run_at(first)
        if at >= 0 and self._runs[at].first + self._runs[at].rows == first:
            run = self._runs[at]
        else:
            run = Run(first)
            insort(self._runs, run, key=lambda run: run.first)
        self._open[lane] = segment, run
        return segment, run

    def _close(self, lane: int) -> None:
        opened = self._open[lane]
        if opened is None:
            return
        self._open[lane] = None
        if opened[0].file is None:
            self.unsaved[opened[0].first] = opened[0]

    def _allocate(self) -> dict[str, np.ndarray]:
        """Memory of one segment, with every page touched so that it counts from now on."""
        columns = self.row_columns | self.side_columns
        try:
            arrays = {
                name: np.empty((self.segment_rows, *column.shape), column.dtype)
                for name, column in columns.items()
            }
            for array in arrays.values():
                array[...] = np.zeros((), array.dtype)
        except MemoryError as error:
            raise UserError(
                f"no memory for another {self.segment_rows} replay rows of {self.row_bytes} bytes "
                f"after {self.allocated * self.segment_rows}; lower --replay.capacity"
            ) from error
        self.allocated += 1
        return arrays
