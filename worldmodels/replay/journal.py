"""What a killed process leaves behind: a manifest of segment files, and rows of open segments.

`manifest.jsonl` starts with the segments of a moment and gets a line for every file since; each
line carries its checksum. `tail_LANE_POSITION.rows` holds the rows of a segment that has no file
yet, each handed to the system as it arrives; the kernel keeps it whatever becomes of the process.
`arrived.i64` is mapped memory that counts a row before it is written, so that a loss can be told.
"""

import json
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from worldmodels.files import unwritable, write_text
from worldmodels.replay.files import FileRecord
from worldmodels.replay.rows import Column
from worldmodels.replay.segment import LANE_SHIFT, POSITION, Segment
from worldmodels.replay.storage import Arrays

MANIFEST = "manifest.jsonl"
ARRIVED = "arrived.i64"


@dataclass(frozen=True)
class Entry:
    """A segment file as the manifest names it."""

    first: int
    rows: int
    born: int
    file: FileRecord


@dataclass(frozen=True)
class Tail:
    """Rows [rows, ...] per column of a segment that was open; whole rows only."""

    first: int
    born: int
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
        self._tails: dict[int, _OpenTail] = {}
        """By id of the segment's first row."""

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._arrived is not None

    def begin(self, segments: Iterable[Segment], next_id: np.ndarray) -> None:
        """Describe these segments and no others; what the folder said before is gone."""
        entries = [_line(s) for s in segments if s.file]
        try:
            write_text(self._folder / MANIFEST, "".join(entries))
            for path in self._folder.glob("tail_*.rows"):
                path.unlink(missing_ok=True)
            self._close_tails()
            self._map_arrived()[:] = next_id - 1
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error

    def arriving(self, ids: np.ndarray) -> None:
        """Rows ids [E] are about to be written."""
        self._map_arrived()[:] = ids

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
            handle = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                size = os.fstat(handle).st_size
                try:
                    _write(handle, memoryview(_line(segment).encode()))
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        self.dropped(segment)

    def dropped(self, segment: Segment) -> None:
        """The segment needs no tail any more."""
        tail = self._tails.pop(segment.first, None)
        if tail:
            os.close(tail.handle)
            tail.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all files; what they hold stays."""
        self._close_tails()
        self._arrived = None

    def read(self) -> Found:
        """All that the folder holds; torn ends are left out."""
        entries = read_manifest(self._folder)
        tails = [self._read_tail(path) for path in sorted(self._folder.glob("tail_*.rows"))]
        arrived = np.full(self._num_lanes, -1, np.int64)
        path = self._folder / ARRIVED
        if path.is_file() and path.stat().st_size == arrived.nbytes:
            arrived = np.fromfile(path, np.int64)
        return Found(entries, [tail for tail in tails if tail is not None], arrived)

    def _read_tail(self, path: Path) -> Tail | None:
        data = path.read_bytes()
        rows = np.frombuffer(
            data[: len(data) // self._row.itemsize * self._row.itemsize], self._row
        )
        lane, position = map(int, path.stem.split("_")[1:])
        first = (lane << LANE_SHIFT) | position
        good = 0
        for row in rows:
            if row["id"] != first + good or row["crc"] != zlib.crc32(row.tobytes()[:-4]):
                break
            good += 1
        if good == 0:
            return None
        columns = {name: np.ascontiguousarray(rows[name][:good]) for name in self._columns}
        return Tail(first, int(rows["born"][0]), columns)

    def _open(self, segment: Segment) -> _OpenTail:
        path = self._folder / f"tail_{segment.lane:03d}_{segment.first & POSITION:012d}.rows"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        tail = self._tails[segment.first] = _OpenTail(handle, path)
        return tail

    def _map_arrived(self) -> np.ndarray:
        if self._arrived is None:
            path = self._folder / ARRIVED
            path.write_bytes(np.full(self._num_lanes, -1, np.int64).tobytes())
            with path.open("rb+") as file:
                mapped = mmap.mmap(file.fileno(), 8 * self._num_lanes)
            self._arrived = np.frombuffer(mapped, np.int64)
        return self._arrived

    def _close_tails(self) -> None:
        for tail in self._tails.values():
            os.close(tail.handle)
        self._tails.clear()


def read_manifest(folder: Path) -> list[Entry]:
    """The entries of a manifest up to the first line that is torn; of equal segments the last."""
    path = folder / MANIFEST
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    entries: dict[int, Entry] = {}
    for line in lines:
        crc, _, text = line.partition(" ")
        if f"{zlib.crc32(text.encode()):08x}" != crc:
            break
        first, rows, born, file = json.loads(text)
        entries[first] = Entry(first, rows, born, FileRecord(**file))
    return list(entries.values())


def _line(segment: Segment) -> str:
    assert segment.file is not None
    text = json.dumps([segment.first, segment.rows, segment.born, asdict(segment.file)])
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _write(handle: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(handle, data) :]
