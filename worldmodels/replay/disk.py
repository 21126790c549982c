"""The tier on disk: only rows that are in no segment file yet are in RAM.

Windows are read from the files straight into the batch. Mapped files would count as
resident memory once touched, and a damaged one would end the process instead of raising an error.
"""

import mmap
import os
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodels.files import unwritable
from worldmodels.replay.buffers import BufferPool
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.rows import Column
from worldmodels.replay.segment import Segment
from worldmodels.replay.storage import Arrays, Piece, SideOnHost, as_bytes, touched

OPEN_FILES = 128
"""Segment files kept open."""
_LOCAL_HEADER = 30
"""Bytes of a zip entry's header before its name; the lengths of name and extra are its last 4."""


class Disk(SideOnHost):
    """Segments are read where they were written. The side column, if any, is a mapped scratch
    file without a name, which ends with the process.
    """

    def __init__(
        self, columns: Mapping[str, Column], side: Column | None, segment_rows: int, folder: Path
    ):
        self.device = torch.device("cpu")
        self.slots = 0
        self._columns = dict(columns)
        self._side = side
        self._segment_rows = segment_rows
        self._folder = folder
        self._pool = BufferPool()
        self._rows: dict[int, Arrays] = {}
        """Slot -> rows of a segment that has no file yet."""
        self._spare: list[Arrays] = []
        self._free: list[int] = []
        self._files: OrderedDict[str, FileIO] = OrderedDict()
        """Open files by name, the least recently used first."""
        self._offsets: dict[int, dict[str, int]] = {}
        """Bytes of a file -> column -> first byte: files of equal size have equal headers."""
        self._scratch = _Scratch(side, segment_rows, folder) if side else None

    @property
    def bytes(self) -> int:
        """RAM held for rows without a file."""
        per_row = sum(column.nbytes for column in self._columns.values())
        return (len(self._rows) + len(self._spare)) * self._segment_rows * per_row

    def take(self) -> int:
        """A free slot, its side column cleared."""
        if not self._free:
            self._free.append(self.slots)
            self.slots += 1
        slot = self._free.pop()
        if self._scratch:
            self._scratch.clear(slot)
        return slot

    def give(self, segment: Segment) -> None:
        """Its slot is free, its file is closed."""
        self.sealed(segment)
        if segment.file and segment.file.name in self._files:
            self._files.pop(segment.file.name).close()
        self._free.append(segment.slot)

    def write(self, segments: Sequence[Segment], values: Mapping[str, np.ndarray]) -> None:
        """One row per lane, into RAM."""
        for lane, segment in enumerate(segments):
            arrays = self._in_ram(segment)
            for name, value in values.items():
                arrays[name][segment.rows] = value[lane]

    def load(self, segment: Segment, arrays: Mapping[str, np.ndarray]) -> None:
        """Only rows that have no file of their own are read."""
        if segment.file is None:
            mine = self._in_ram(segment)
            for name in self._columns:
                mine[name][: segment.rows] = arrays[name]

    def sealed(self, segment: Segment) -> None:
        """Its memory serves the next segment."""
        if segment.slot in self._rows:
            self._spare.append(self._rows.pop(segment.slot))

    def arrays(self, segment: Segment, low: int = 0) -> Arrays:
        """Views, or copies of what is on disk."""
        if segment.slot in self._rows:
            rows = self._rows[segment.slot]
            return {name: rows[name][low : segment.rows] for name in self._columns}
        out = {}
        for name, column in self._columns.items():
            out[name] = np.empty((segment.rows - low, *column.shape), column.dtype)
            self._copy(out[name], name, segment, low)
        return out

    def read(self, windows: Sequence[Sequence[Piece]], rows: int) -> dict[str, Tensor]:
        """From RAM or from the files into memory that nobody else sees."""
        columns = {}
        for name, column in self._columns.items():
            out = self._pool.take((len(windows), rows, *column.shape), column.dtype)
            for target, pieces in zip(out, windows, strict=True):
                for segment, low, high, at in pieces:
                    self._copy(target[at : at + high - low], name, segment, low)
            columns[name] = as_bytes(out)
        return columns

    def close(self) -> None:
        """The scratch file is gone with this."""
        while self._files:
            self._files.popitem()[1].close()
        self._scratch = None

    def _side_of(self, slot: int) -> np.ndarray:
        assert self._scratch is not None
        return self._scratch.of(slot)

    def _in_ram(self, segment: Segment) -> Arrays:
        if segment.slot not in self._rows:
            self._rows[segment.slot] = self._spare.pop() if self._spare else self._fresh()
        return self._rows[segment.slot]

    def _fresh(self) -> Arrays:
        """Memory of one more segment."""
        return {name: touched(self._segment_rows, c) for name, c in self._columns.items()}

    def _copy(self, into: np.ndarray, name: str, segment: Segment, low: int) -> None:
        """Rows low, low + 1, ... of one column; `into` is contiguous."""
        if segment.slot in self._rows:
            into[...] = self._rows[segment.slot][name][low : low + len(into)]
            return
        file, offsets = self._file(segment)
        file.seek(offsets[name] + low * self._columns[name].nbytes)
        target = into.reshape(-1).view(np.uint8)
        done = 0
        while done < target.nbytes:
            count = file.readinto(target[done:].data)
            if not count:
                raise self._damaged(segment, "it ends too early")
            done += count

    def _file(self, segment: Segment) -> tuple[FileIO, dict[str, int]]:
        """A segment's file, and where its columns begin."""
        assert segment.file is not None
        name, size = segment.file.name, segment.file.size
        try:
            if size not in self._offsets:
                self._offsets[size] = _offsets(self._folder / name)
            if name not in self._files:
                self._files[name] = FileIO(self._folder / name)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise self._damaged(segment, str(error)) from error
        self._files.move_to_end(name)
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[name], self._offsets[size]

    def _damaged(self, segment: Segment, why: str) -> CorruptReplay:
        assert segment.file is not None
        return CorruptReplay(
            f"replay file {self._folder / segment.file.name} cannot be read ({why}); resume from "
            "a checkpoint of before"
        )


def _offsets(path: Path) -> dict[str, int]:
    """Column -> first byte of its rows in an uncompressed .npz file."""
    offsets = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            file.seek(entry.header_offset + _LOCAL_HEADER - 4)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(int(lengths.sum()), os.SEEK_CUR)
            if np.lib.format.read_magic(file) == (1, 0):
                np.lib.format.read_array_header_1_0(file)
            else:
                np.lib.format.read_array_header_2_0(file)
            offsets[entry.filename.removesuffix(".npy")] = file.tell()
    return offsets


class _Scratch:
    """Mapped memory for the side column of every slot, in chunks of equal size."""

    CHUNK = 64
    """Slots per mapped chunk."""

    def __init__(self, column: Column, segment_rows: int, folder: Path):
        self.dtype = column.dtype
        self._segment_rows = segment_rows
        self._folder = folder
        self._chunks: list[np.ndarray] = []

    def of(self, slot: int) -> np.ndarray:
        """[segment_rows] of a slot."""
        return self._chunks[slot // self.CHUNK][slot % self.CHUNK]

    def clear(self, slot: int) -> None:
        """Zeros for a slot."""
        while slot // self.CHUNK >= len(self._chunks):
            self._chunks.append(self._chunk())
        self.of(slot)[...] = np.zeros((), self.dtype)

    def _chunk(self) -> np.ndarray:
        shape = (self.CHUNK, self._segment_rows)
        size = self.CHUNK * self._segment_rows * self.dtype.itemsize
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                # Space for all of it now: a mapped page that finds none ends the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise unwritable("replay", self._folder, error) from error
        return np.frombuffer(mapped, self.dtype).reshape(shape)
