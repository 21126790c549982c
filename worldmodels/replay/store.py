"""Which rows are resident: segments by id, one open segment per lane, and the storage below.

Letters: E lanes, B windows of T rows, N rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from worldmodels.replay.files import FileRecord
from worldmodels.replay.segment import LANE_SHIFT, POSITION, Segment
from worldmodels.replay.storage import Arrays, Piece, Storage


class Store:
    """Appends rows to lanes and reads windows of them. What stays is decided elsewhere."""

    def __init__(self, storage: Storage, num_lanes: int, segment_rows: int):
        self.storage = storage
        self.num_lanes = num_lanes
        self.segment_rows = segment_rows
        self.segments: dict[int, Segment] = {}
        """By id of the first row, oldest first."""
        self.clear()

    def clear(self) -> None:
        """Forget every row; the memory stays."""
        for segment in self.segments.values():
            self.storage.give(segment)
        self.segments.clear()
        self.rows = 0
        self.clock = 0
        """Rows that every lane has seen."""
        self.next_id = np.arange(self.num_lanes, dtype=np.int64) << LANE_SHIFT
        """[E]: the id that each lane's next row gets."""
        self._open: list[Segment | None] = [None] * self.num_lanes

    def opening(self, lanes: Sequence[int]) -> int:
        """Number of those lanes whose next row starts a segment."""
        return [self._open[lane] for lane in lanes].count(None)

    def append(self, values: Mapping[str, np.ndarray], lanes: Sequence[int]) -> list[Segment]:
        """One row per column [len(lanes), ...] -> the segment of each lane that got it, as its
        last row. Those that are full are closed now.
        """
        # All memory is taken before any row is written: a lane must never be a row ahead.
        segments = [self._open[lane] or self._start(lane) for lane in lanes]
        self.storage.write(segments, values)
        for lane, segment in zip(lanes, segments, strict=True):
            segment.rows += 1
            if segment.rows == self.segment_rows:
                self._close(lane)
        self.rows += len(lanes)
        self.next_id[lanes] += 1
        self.clock += 1
        return segments

    def cut(self, lane: int) -> Segment | None:
        """Skip to the next segment, so that no window holds rows from both sides of this moment.

        Returns the segment that it closed.
        """
        closed = self._close(lane)
        next_id = int(self.next_id[lane])
        self.next_id[lane] += self.segment_rows - self._offset(next_id)
        return closed

    def adopt(self, first: int, rows: int, born: int, file: FileRecord | None) -> Segment:
        """Register a saved segment, newer than all others; its rows are to be loaded yet.

        `next_id` must be set before: it tells whether the segment is still open.
        """
        segment = Segment(first, born, self.storage.take(), rows, file=file)
        self.segments[first] = segment
        self.rows += rows
        self._open[segment.lane] = segment
        if rows == self.segment_rows or first + rows != self.next_id[segment.lane]:
            self._close(segment.lane)
        return segment

    def evict(self, segment: Segment) -> None:
        """Forget a closed segment."""
        assert not segment.open
        del self.segments[segment.first]
        self.rows -= segment.rows
        self.storage.give(segment)

    def holds(self, start: int, rows: int) -> bool:
        """Whether rows start, ..., start + rows - 1 are all resident."""
        done = 0
        while done < rows:
            offset = self._offset(start + done)
            count = min(rows - done, self.segment_rows - offset)
            segment = self.segments.get(start + done - offset)
            if segment is None or segment.rows < offset + count:
                return False
            done += count
        return True

    def read(self, starts: Sequence[int], rows: int) -> dict[str, Tensor]:
        """Windows of resident rows -> freshly owned [B, rows, ...] per row column."""
        return self.storage.read([self._pieces(start, rows) for start in starts], rows)

    def gather(self, ids: Sequence[int]) -> Tensor:
        """The side column of N rows, uint8 [N, bytes]; zeros where a row is not resident."""
        places = []
        for row in ids:
            offset = self._offset(row)
            segment = self.segments.get(row - offset)
            places.append((segment.slot if segment else -1, offset))
        return self.storage.gather(places)

    def scatter(self, ids: np.ndarray, values: Tensor) -> None:
        """Rewrite the side column, uint8 [N, bytes], of rows ids [N].

        Rows that are gone are left out; of equal rows the last one counts.
        """
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        offset = self._offset(ids[last])
        firsts, where = np.unique(ids[last] - offset, return_inverse=True)
        found = [self.segments.get(first) for first in firsts.tolist()]
        slot = np.array([s.slot if s else -1 for s in found], np.int64)[where]
        rows = np.array([s.rows if s else 0 for s in found], np.int64)[where]
        kept = np.flatnonzero(offset < rows)
        if len(kept):
            self.storage.scatter(slot[kept], offset[kept], values[last[kept]])

    def arrays(self, segment: Segment) -> Arrays:
        """All rows of a segment."""
        return self.storage.arrays(segment)

    def place(self, row: int) -> tuple[Segment, int]:
        """The segment of a resident row, and its place there."""
        offset = int(self._offset(row))
        return self.segments[row - offset], offset

    def _offset(self, ids):
        """Place of each row (int or int64 [N]) in its segment."""
        return (ids & POSITION) % self.segment_rows

    def _pieces(self, start: int, rows: int) -> list[Piece]:
        """A window as parts of segments."""
        pieces = []
        done = 0
        while done < rows:
            segment, low = self.place(start + done)
            count = min(rows - done, self.segment_rows - low)
            pieces.append((segment, low, low + count, done))
            done += count
        return pieces

    def _start(self, lane: int) -> Segment:
        """Open the lane's next segment."""
        first = int(self.next_id[lane])
        segment = Segment(first, self.clock, self.storage.take())
        self.segments[first] = self._open[lane] = segment
        return segment

    def _close(self, lane: int) -> Segment | None:
        segment, self._open[lane] = self._open[lane], None
        if segment:
            segment.open = False
        return segment
