"""What a killed process leaves behind: a manifest of segment files, and rows of open segments.

`layout.json` says what a row holds. `manifest.jsonl` starts with the segments of a moment and gets
a line for every file since; each line carries its checksum. `tail_GENERATION_LANE_POSITION.rows`
holds the rows of a segment that has no file yet, each handed to the system as it arrives; the
kernel keeps it whatever becomes of the process. Only tails of the manifest's generation count, so
that replacing the manifest replaces everything at once. `arrived.i64` is mapped memory that counts
a row before it is written, so that a loss can be told.
"""

import json
import mmap
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.files import unwritable, write_text
from worldmodels.replay.manifest import (
    LAYOUT,
    MANIFEST,
    Entry,
    generation,
    manifest_line,
    newest_generation,
    read_manifest,
    write_manifest,
)
from worldmodels.replay.rows import Column
from worldmodels.replay.segment import LANE_SHIFT, POSITION, Segment
from worldmodels.replay.storage import Arrays

_BINARY = getattr(os, "O_BINARY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _BINARY
ARRIVED = "arrived.i64"


@dataclass(frozen=True)
class Tail:
    """Rows [rows, ...] per column of a segment that was open; whole rows only."""

    first: int
    born: int
    path: Path
    columns: Arrays

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.columns["record"])


@dataclass(frozen=True)
class Found:
    """All that a folder holds."""

    entries: list[Entry]
    tails: list[Tail]
    arrived: np.ndarray
    """int64 [E]: id of the last row that each lane began to write; -1 for none."""
    settled: np.ndarray
    """int64 [E]: id of the last row that was dropped or skipped on purpose; -1 for none."""


@dataclass(eq=False)
class _OpenTail:
    handle: int
    path: Path
    rows: int = 0


class Journal:
    """Written along with the rows; read once, by `Replay.recover`."""

    def __init__(self, folder: Path, columns: Mapping[str, Column], num_lanes: int):
        self._folder = folder
        self._columns = dict(columns)
        fields = [(name, c.dtype, c.shape) for name, c in self._columns.items()]
        self._row = np.dtype([("id", np.int64), ("born", np.int64), *fields, ("crc", np.uint32)])
        self._num_lanes = num_lanes
        self._arrived: np.ndarray | None = None
        """int64 [2, E], mapped: `Found.arrived` and `Found.settled`."""
        self._generation = 0
        self._tails: dict[int, _OpenTail] = {}
        """By id of the segment's first row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a tail."""
        return self._row.itemsize

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._arrived is not None

    def begin(
        self,
        segments: Sequence[Segment],
        next_id: np.ndarray,
        arrays: Callable[[Segment], Arrays],
    ) -> None:
        """Describe these segments and no others; what the folder said before is gone.

        `arrays` gives the rows of those that have no file.
        """
        old = self._tails, self._generation
        stale = list(self._folder.glob("tail_*.rows"))
        self._tails, self._generation = {}, newest_generation(self._folder) + 1
        try:
            for segment in segments:
                if segment.file is None:
                    self.append(segment, arrays(segment))
            self._map_arrived(next_id - 1)
            write_manifest(self._folder, self._generation, segments)
        except (OSError, UserError) as error:
            self._close_tails()
            self._tails, self._generation = old
            if isinstance(error, UserError):
                raise
            raise unwritable("replay", self._folder, error) from error
        for tail in old[0].values():
            os.close(tail.handle)
        for path in {*stale} - {tail.path for tail in self._tails.values()}:
            path.unlink(missing_ok=True)

    def shorten(self, segments: Sequence[Segment]) -> None:
        """Let the manifest name these segments' files only; the tails go on."""
        try:
            write_manifest(self._folder, self._generation, segments)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error

    def describe(self, layout: dict[str, Any]) -> None:
        """Write what a reader, or `recover`, has to know of the rows."""
        try:
            write_text(self._folder / LAYOUT, json.dumps(layout, indent=1) + "\n")
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error

    def close(self) -> None:
        """Let go of all files; what they hold stays."""
        self._close_tails()
        self._arrived = None

    def arriving(self, ids: np.ndarray, lanes: Sequence[int]) -> None:
        """Rows ids are about to be written, one in each of `lanes`."""
        assert self._arrived is not None
        self._arrived[0, lanes] = ids

    def append(self, segment: Segment, arrays: Arrays) -> None:
        """Write the newest rows of an open segment: `arrays` holds all those not written yet."""
        tail = self._tails.get(segment.first) or self._open(segment)
        missing = segment.rows - tail.rows
        rows = np.zeros(missing, self._row)
        rows["id"] = segment.first + np.arange(tail.rows, segment.rows)
        rows["born"] = segment.born
        for name in self._columns:
            rows[name] = arrays[name][-missing:]
        size = self._row.itemsize
        data = rows.view(np.uint8).reshape(missing, size)
        for place in range(missing):
            rows["crc"][place] = zlib.crc32(data[place, :-4].data)
        try:
            _write(tail.handle, data.reshape(-1).data)
        except OSError as error:
            os.ftruncate(tail.handle, tail.rows * size)
            raise unwritable("replay", self._folder, error) from error
        tail.rows = segment.rows

    def unwritten(self, segment: Segment) -> int:
        """First row of an open segment that its tail does not hold."""
        tail = self._tails.get(segment.first)
        return tail.rows if tail else 0

    def sealed(self, segment: Segment) -> None:
        """The segment has a file."""
        path = self._folder / MANIFEST
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | _BINARY)
            try:
                size = os.fstat(handle).st_size
                try:
                    _write(handle, memoryview(manifest_line(segment).encode()))
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        self._forget(segment)

    def dropped(self, segment: Segment) -> None:
        """Nobody keeps the segment: that its rows are gone is no loss."""
        if self._arrived is not None and segment.rows:
            last = segment.first + segment.rows - 1
            self._arrived[1, segment.lane] = max(self._arrived[1, segment.lane], last)
        self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        """The segment needs no tail any more."""
        tail = self._tails.pop(segment.first, None)
        if tail:
            os.close(tail.handle)
            tail.path.unlink(missing_ok=True)

    def read(self) -> Found:
        """All that the folder holds; torn ends are left out."""
        entries = read_manifest(self._folder)
        pattern = f"tail_{generation(self._folder):04d}_*.rows"
        tails = [self._read_tail(path) for path in sorted(self._folder.glob(pattern))]
        arrived = np.full((2, self._num_lanes), -1, np.int64)
        path = self._folder / ARRIVED
        if path.is_file() and path.stat().st_size == arrived.nbytes:
            arrived = np.fromfile(path, np.int64).reshape(arrived.shape)
        return Found(entries, [tail for tail in tails if tail is not None], *arrived)

    def _read_tail(self, path: Path) -> Tail | None:
        data = path.read_bytes()
        rows = np.frombuffer(
            data[: len(data) // self._row.itemsize * self._row.itemsize], self._row
        )
        lane, position = map(int, path.stem.split("_")[2:])
        first = (lane << LANE_SHIFT) | position
        good = 0
        for row in rows:
            if row["id"] != first + good or row["crc"] != zlib.crc32(row.tobytes()[:-4]):
                break
            good += 1
        if good == 0:
            return None
        columns = {name: np.ascontiguousarray(rows[name][:good]) for name in self._columns}
        return Tail(first, int(rows["born"][0]), path, columns)

    def _open(self, segment: Segment) -> _OpenTail:
        place = f"{segment.lane:03d}_{segment.first & POSITION:012d}"
        path = self._folder / f"tail_{self._generation:04d}_{place}.rows"
        try:
            handle = os.open(path, _NEW, 0o666)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        tail = self._tails[segment.first] = _OpenTail(handle, path)
        return tail

    def _map_arrived(self, last: np.ndarray) -> None:
        """A new file, in which ids [E] are the last ones that were given or skipped."""
        path = self._folder / ARRIVED
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(np.stack([last, last]).tobytes())
        with temporary.open("rb+") as file:
            mapped = mmap.mmap(file.fileno(), 2 * last.nbytes)
        os.replace(temporary, path)
        self._arrived = np.frombuffer(mapped, np.int64).reshape(2, -1)

    def _close_tails(self) -> None:
        for tail in self._tails.values():
            os.close(tail.handle)
        self._tails.clear()


def _write(handle: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(handle, data) :]
