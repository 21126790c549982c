"""The tier on the learner's device: rows are written and windows gathered without the host.

Letters: E lanes, B windows of T rows, N rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels.errors import UserError
from worldmodels.replay.rows import Column
from worldmodels.replay.segment import Segment
from worldmodels.replay.storage import Arrays, Piece, as_bytes, row_bytes


class Gpu:
    """One tensor [slots x segment_rows, ...] per column on `device`; a batch is one gather each.

    Only indices travel from the host, and one copy of each row when it arrives. With the device
    `cpu` it is the same code on ordinary memory.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        side: Column | None,
        segment_rows: int,
        slots: int,
        device: torch.device,
    ):
        self.device = device
        self.slots = slots
        self._columns = dict(columns)
        self._segment_rows = segment_rows
        self._side_column = side
        self._row_bytes = row_bytes(columns, side)
        try:
            self._arena = {name: self._zeros(column) for name, column in columns.items()}
            self._side = self._zeros(side) if side else None
        except torch.OutOfMemoryError as error:
            need = slots * segment_rows * self._row_bytes / 2**30
            raise UserError(
                f"the replay needs {need:.1f} GiB on {device}, which has less; lower "
                "--replay.capacity or use --replay.storage=ram"
            ) from error
        self._free = list(range(slots))

    @property
    def bytes(self) -> int:
        """Memory held on the device."""
        return self.slots * self._segment_rows * self._row_bytes

    def take(self) -> int:
        """A free slot, its side column cleared; the arena never grows."""
        if not self._free:
            raise UserError(
                f"the replay's {self.slots} segments on {self.device} are all in use; raise "
                "--steps to what the run will really take, or use --replay.storage=ram"
            )
        slot = self._free.pop()
        if self._side is not None:
            self._side[self._slice(slot, self._segment_rows)] = 0
        return slot

    def give(self, segment: Segment) -> None:
        """Its slot is free."""
        self._free.append(segment.slot)

    def write(self, segments: Sequence[Segment], values: Mapping[str, np.ndarray]) -> None:
        """One row per lane: one copy to the device a column."""
        rows = torch.tensor([s.slot * self._segment_rows + s.rows for s in segments])
        rows = rows.to(self.device, non_blocking=True)
        for name, value in values.items():
            self._arena[name].index_copy_(0, rows, self._moved(value))

    def load(self, segment: Segment, arrays: Mapping[str, np.ndarray]) -> None:
        """Copies every column to the device."""
        for name, arena in self._arena.items():
            arena[self._slice(segment.slot, segment.rows)] = self._moved(arrays[name])

    def sealed(self, segment: Segment) -> None:
        """The rows stay on the device."""

    def arrays(self, segment: Segment, low: int = 0) -> Arrays:
        """Copies on the host."""
        rows = self._slice(segment.slot, segment.rows)
        out = {}
        for name, column in self._columns.items():
            values = self._arena[name][rows][low:].cpu().numpy()
            opaque = column.dtype.kind == "V"
            out[name] = values.view(column.dtype)[..., 0] if opaque else values
        return out

    def read(self, windows: Sequence[Sequence[Piece]], rows: int) -> dict[str, Tensor]:
        """One gather a column."""
        index = np.empty((len(windows), rows), np.int64)
        for target, pieces in zip(index, windows, strict=True):
            for segment, low, high, at in pieces:
                first = segment.slot * self._segment_rows
                target[at : at + high - low] = np.arange(first + low, first + high)
        where = torch.from_numpy(index.reshape(-1)).to(self.device, non_blocking=True)
        return {
            name: arena.index_select(0, where).view(len(windows), rows, *arena.shape[1:])
            for name, arena in self._arena.items()
        }

    def side(self, segment: Segment) -> np.ndarray:
        """A copy on the host."""
        assert self._side is not None
        assert self._side_column is not None
        values = self._side[self._slice(segment.slot, segment.rows)].cpu().numpy()
        return values.view(self._side_column.dtype)[:, 0]

    def load_side(self, segment: Segment, values: np.ndarray) -> None:
        """Copies it to the device."""
        assert self._side is not None
        self._side[self._slice(segment.slot, segment.rows)] = self._moved(values)

    def gather(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """One gather."""
        assert self._side is not None
        rows = [slot * self._segment_rows + row if slot >= 0 else -1 for slot, row in places]
        where = torch.tensor(rows).to(self.device, non_blocking=True)
        values = self._side.index_select(0, where.clamp_min(0))
        return values * (where >= 0).unsqueeze(1)

    def scatter(self, slots: np.ndarray, rows: np.ndarray, values: Tensor) -> None:
        """One indexed assignment."""
        assert self._side is not None
        where = torch.from_numpy(slots * self._segment_rows + rows)
        self._side[where.to(self.device, non_blocking=True)] = values.to(self.device)

    def close(self) -> None:
        """Nothing is open."""

    def _slice(self, slot: int, rows: int) -> slice:
        first = slot * self._segment_rows
        return slice(first, first + rows)

    def _moved(self, values: np.ndarray) -> Tensor:
        # A tensor cannot share memory that is read-only, as that of a file's arrays may be.
        values = np.require(values, requirements=["C", "W"])
        return as_bytes(values).to(self.device, non_blocking=True)

    def _zeros(self, column: Column) -> Tensor:
        sample = as_bytes(np.zeros((1, *column.shape), column.dtype))
        shape = (self.slots * self._segment_rows, *sample.shape[1:])
        return torch.zeros(shape, dtype=sample.dtype, device=self.device)
