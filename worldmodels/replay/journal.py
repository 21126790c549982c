"""What a killed process leaves behind: a manifest of segment files, and rows of open segments.

`layout.json` says what a row holds. `manifest.jsonl` starts with the segments of a moment and gets
a line for every file since; each line carries its checksum. `tail_GENERATION_LANE_POSITION.rows`
holds the rows of a segment that has no file yet, each handed to the system as it arrives; the
kernel keeps it whatever becomes of the process. Only tails of the manifest's generation count, so
that replacing the manifest replaces everything at once.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.files import unwritable, write_text
from worldmodels.replay.arrivals import Arrivals
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
    arrivals: Arrivals

    def missing(self, segment_rows: int) -> np.ndarray:
        """int64 [E]: rows of each lane's last segment that began to arrive and are not here."""
        last = (np.arange(len(self.arrivals.last), dtype=np.int64) << LANE_SHIFT) - 1
        for one in (*self.entries, *self.tails):
            lane = one.first >> LANE_SHIFT
            last[lane] = max(last[lane], one.first + one.rows - 1)
        return self.arrivals.missing(last, segment_rows)


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
        self._arrivals: Arrivals | None = None
        self._behind: dict[int, int] = {}
        """What `Arrivals.behind` counts, by id of the segment's first row."""
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
        return self._arrivals is not None

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
            self._arrivals = Arrivals.begin(self._folder, next_id - 1)
            self._behind.clear()
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
        self._arrivals = None

    def arriving(self, ids: np.ndarray, lanes: Sequence[int], waiting: Iterable[Segment]) -> None:
        """Rows ids are about to be written, one in each of `lanes`.

        `waiting`: the closed segments that have no file.
        """
        assert self._arrivals is not None
        last, behind = self._arrivals.last, self._arrivals.behind
        last[lanes] = ids
        passed = [s for s in waiting if s.first + s.rows <= last[s.lane]]
        self._behind = {s.first: s.rows - self.written(s) for s in passed}
        behind[:] = 0
        for first, rows in self._behind.items():
            behind[first >> LANE_SHIFT] += rows

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

    def written(self, segment: Segment) -> int:
        """Rows of a segment without a file that its tail holds."""
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
        if self._arrivals and segment.rows:
            last = segment.first + segment.rows - 1
            settled = self._arrivals.settled
            settled[segment.lane] = max(settled[segment.lane], last)
        self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        """The segment needs no tail any more."""
        if behind := self._behind.pop(segment.first, 0):
            assert self._arrivals is not None
            self._arrivals.behind[segment.lane] -= behind
        tail = self._tails.pop(segment.first, None)
        if tail:
            os.close(tail.handle)
            tail.path.unlink(missing_ok=True)

    def read(self) -> Found:
        """All that the folder holds; torn ends are left out.

        In this order nothing is missed, whatever a running process writes meanwhile.
        """
        arrivals = Arrivals.read(self._folder, self._num_lanes)
        pattern = f"tail_{generation(self._folder):04d}_*.rows"
        tails = [self._read_tail(path) for path in sorted(self._folder.glob(pattern))]
        entries = read_manifest(self._folder)
        return Found(entries, [tail for tail in tails if tail is not None], arrivals)

    def _read_tail(self, path: Path) -> Tail | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # sealed meanwhile
            return None
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
        path = self._folder / tail_name(self._generation, segment.first)
        try:
            handle = os.open(path, _NEW, 0o666)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        tail = self._tails[segment.first] = _OpenTail(handle, path)
        return tail

    def _close_tails(self) -> None:
        for tail in self._tails.values():
            os.close(tail.handle)
        self._tails.clear()


def tail_name(generation: int, first: int) -> str:
    """The file of the segment that begins at row `first`, until it is sealed."""
    return f"tail_{generation:04d}_{first >> LANE_SHIFT:03d}_{first & POSITION:012d}.rows"


def _write(handle: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(handle, data) :]
