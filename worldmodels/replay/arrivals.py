"""Which rows began to arrive: what tells a loss, whatever became of the process.

`arrived.i64` is mapped memory: a row is counted there before it is written anywhere.
Letters: E lanes.
"""

import mmap
import os
from pathlib import Path

import numpy as np

from worldmodels.replay.segment import POSITION

ARRIVED = "arrived.i64"


class Arrivals:
    """Three counts a lane, int64 [E] each."""

    def __init__(self, counts: np.ndarray):
        self.last, self.settled, self.behind = counts
        """Id of the last row that the lane began to write; of the last one that was dropped or
        skipped on purpose (-1 for none); rows in closed segments that no file holds, because
        writing failed, apart from the segment of the last row."""

    @staticmethod
    def begin(folder: Path, last: np.ndarray) -> "Arrivals":
        """A new file, in which ids [E] are the last ones that were given or skipped."""
        path = folder / ARRIVED
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(np.stack([last, last, 0 * last]).tobytes())
        with temporary.open("rb+") as file:
            mapped = mmap.mmap(file.fileno(), 3 * last.nbytes)
        os.replace(temporary, path)
        return Arrivals(np.frombuffer(mapped, np.int64).reshape(3, -1))

    @staticmethod
    def read(folder: Path, lanes: int) -> "Arrivals":
        """What a process left behind; a file of another size tells nothing."""
        counts = np.array([[-1], [-1], [0]], np.int64).repeat(lanes, 1)
        path = folder / ARRIVED
        if path.is_file() and path.stat().st_size == counts.nbytes:
            counts = np.fromfile(path, np.int64).reshape(counts.shape)
        return Arrivals(counts)

    def begun(self, segment_rows: int) -> np.ndarray:
        """int64 [E]: first id of the segment of each lane's last row."""
        return self.last - (self.last & POSITION) % segment_rows

    def missing(self, found: np.ndarray, segment_rows: int) -> np.ndarray:
        """int64 [E]: rows of that segment that began to arrive and are not among those `found`.

        found: id of the last row that a file holds, by lane. Rows of the segments before it are
        in `behind`: ids are skipped between segments, and count for nothing there.
        """
        known = np.maximum(np.maximum(found, self.settled), self.begun(segment_rows) - 1)
        return np.maximum(self.last - known, 0)
