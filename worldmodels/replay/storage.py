"""Where the rows of segments are: the interface of the tiers, and the tier in RAM.

Letters: E lanes, B windows of T rows, N rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from worldmodels.errors import UserError
from worldmodels.replay.buffers import BufferPool
from worldmodels.replay.rows import Column
from worldmodels.replay.segment import Segment

Arrays: TypeAlias = dict[str, np.ndarray]
Piece: TypeAlias = tuple[Segment, int, int, int]
"""Part of a window: the rows low to high of a segment, and their place in the window."""


class Storage(Protocol):
    """Slots of `segment_rows` rows each: row columns, written once, and at most one side column,
    which is zeros when a slot is taken and rewritten at any time.
    """

    slots: int
    """Segments that there is memory for."""
    device: torch.device
    """Where `read` and `gather` deliver."""

    @property
    def bytes(self) -> int:
        """Memory held, filled or not, in RAM or on the device."""
        ...

    def take(self) -> int:
        """A free slot; memory grows where none is free."""
        ...

    def give(self, segment: Segment) -> None:
        """The segment is forgotten; its slot is free."""
        ...

    def write(self, segments: Sequence[Segment], values: Mapping[str, np.ndarray]) -> None:
        """One row [E, ...] per column at place `rows` of each of E segments."""
        ...

    def load(self, segment: Segment, arrays: Mapping[str, np.ndarray]) -> None:
        """All rows [rows, ...] of a segment; `arrays` reads them when asked."""
        ...

    def sealed(self, segment: Segment) -> None:
        """The segment's rows are in its file now."""
        ...

    def arrays(self, segment: Segment, low: int = 0) -> Arrays:
        """The rows low to `segment.rows` of all row columns."""
        ...

    def read(self, windows: Sequence[Sequence[Piece]], rows: int) -> dict[str, Tensor]:
        """B windows of T = rows rows -> freshly owned [B, T, ...]; opaque columns as bytes."""
        ...

    def side(self, segment: Segment) -> np.ndarray:
        """The side column [rows] of a segment, opaque."""
        ...

    def load_side(self, segment: Segment, values: np.ndarray) -> None:
        """Inverse of `side`."""
        ...

    def gather(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """The side column at N (slot, row): uint8 [N, bytes]; zeros where the slot is -1."""
        ...

    def scatter(self, slots: np.ndarray, rows: np.ndarray, values: Tensor) -> None:
        """Rewrite the side column, uint8 [N, bytes], at N different (slot, row)."""
        ...

    def close(self) -> None:
        """Let go of all files."""
        ...


def as_bytes(array: np.ndarray) -> Tensor:
    """An array as a tensor that shares its memory; opaque entries get an axis of bytes."""
    if array.dtype.kind == "V":
        return torch.from_numpy(array.view(np.uint8).reshape(*array.shape, array.dtype.itemsize))
    return torch.from_numpy(array)


class SideOnHost(ABC):
    """The side column of a tier that keeps it as one numpy array a slot."""

    _side: Column | None

    @abstractmethod
    def _side_of(self, slot: int) -> np.ndarray:
        """[segment_rows] of a slot."""

    def side(self, segment: Segment) -> np.ndarray:
        """A view of the written rows."""
        return self._side_of(segment.slot)[: segment.rows]

    def load_side(self, segment: Segment, values: np.ndarray) -> None:
        """Copies them."""
        self.side(segment)[...] = values

    def gather(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """One copy a row."""
        assert self._side is not None
        out = np.zeros(len(places), self._side.dtype)
        for place, (slot, row) in enumerate(places):
            if slot >= 0:
                out[place] = self._side_of(slot)[row]
        return as_bytes(out)

    def scatter(self, slots: np.ndarray, rows: np.ndarray, values: Tensor) -> None:
        """One indexed assignment a slot."""
        assert self._side is not None
        packed = values.cpu().numpy().view(self._side.dtype)[:, 0]
        for slot in np.unique(slots).tolist():
            which = slots == slot
            self._side_of(slot)[rows[which]] = packed[which]


class Ram(SideOnHost):
    """Every slot is a set of numpy arrays: a window costs one contiguous copy a piece."""

    def __init__(
        self, columns: Mapping[str, Column], side: Column | None, segment_rows: int, slots: int
    ):
        self.device = torch.device("cpu")
        self.slots = 0
        self._columns = dict(columns)
        self._side = side
        self._segment_rows = segment_rows
        self._pool = BufferPool()
        self._rows: list[Arrays] = []
        self._sides: list[np.ndarray] = []
        """By slot."""
        self._free = [self._grow() for _ in range(slots)]

    @property
    def bytes(self) -> int:
        """Memory held, filled or not."""
        return self.slots * self._segment_rows * row_bytes(self._columns, self._side)

    def take(self) -> int:
        """A free slot, its side column cleared."""
        slot = self._free.pop() if self._free else self._grow()
        if self._side:
            self._sides[slot][...] = np.zeros((), self._side.dtype)
        return slot

    def give(self, segment: Segment) -> None:
        """Its slot is free."""
        self._free.append(segment.slot)

    def write(self, segments: Sequence[Segment], values: Mapping[str, np.ndarray]) -> None:
        """One row per lane."""
        for lane, segment in enumerate(segments):
            arrays = self._rows[segment.slot]
            for name, value in values.items():
                arrays[name][segment.rows] = value[lane]

    def load(self, segment: Segment, arrays: Mapping[str, np.ndarray]) -> None:
        """Copies every column."""
        for name in self._columns:
            self._rows[segment.slot][name][: segment.rows] = arrays[name]

    def sealed(self, segment: Segment) -> None:
        """The rows stay in RAM as well."""

    def close(self) -> None:
        """Nothing is open."""

    def arrays(self, segment: Segment, low: int = 0) -> Arrays:
        """Views of the written rows."""
        arrays = self._rows[segment.slot]
        return {name: arrays[name][low : segment.rows] for name in self._columns}

    def read(self, windows: Sequence[Sequence[Piece]], rows: int) -> dict[str, Tensor]:
        """Copies into memory that nobody else sees."""
        columns = {}
        for name, column in self._columns.items():
            out = self._pool.take((len(windows), rows, *column.shape), column.dtype)
            for target, pieces in zip(out, windows, strict=True):
                for segment, low, high, at in pieces:
                    target[at : at + high - low] = self._rows[segment.slot][name][low:high]
            columns[name] = as_bytes(out)
        return columns

    def _side_of(self, slot: int) -> np.ndarray:
        return self._sides[slot]

    def _grow(self) -> int:
        """Memory of one more slot."""
        columns = {**self._columns, **({"side": self._side} if self._side else {})}
        try:
            arrays = {name: touched(self._segment_rows, c) for name, c in columns.items()}
        except MemoryError as error:
            size = row_bytes(self._columns, self._side)
            raise no_memory(self._segment_rows, size, self.slots) from error
        if self._side:
            self._sides.append(arrays.pop("side"))
        self._rows.append(arrays)
        self.slots += 1
        return self.slots - 1


def row_bytes(columns: Mapping[str, Column], side: Column | None) -> int:
    """Bytes of one row, the side column included."""
    return sum(c.nbytes for c in columns.values()) + (side.nbytes if side else 0)


def touched(rows: int, column: Column) -> np.ndarray:
    """Memory [rows, ...] with every page touched, so that it counts from now on."""
    array = np.empty((rows, *column.shape), column.dtype)
    array[...] = np.zeros((), column.dtype)
    return array


def no_memory(segment_rows: int, size: int, slots: int) -> UserError:
    """The error for memory that the machine refuses."""
    return UserError(
        f"no memory for another {segment_rows} replay rows of {size} bytes after "
        f"{slots * segment_rows}; lower --replay.capacity or use --replay.storage=disk"
    )
