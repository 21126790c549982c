"""The four ways in which a window gets the model state before its first row.

`zero`: none. `burnin:k`: none, but k leading rows that bear no loss. `stored`: the state that the
learner last wrote at the row before. `continue`: every sequence of the batch goes on where it
stopped, with the state it stopped in.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.errors import UserError
from worldmodels.objects import Carry
from worldmodels.parts import parse_carry
from worldmodels.replay.packing import Packing
from worldmodels.replay.rows import Column
from worldmodels.replay.store import Store

Draw = Callable[[int], list[int]]
"""count -> that many starts of resident windows."""
Window = tuple[list[int], Carry | None, Tensor]
"""Starts of B windows, the carry before them, and which of them have one (bool [B])."""
MAX_STORED_BYTES = 64 * 1024
MAX_REDRAWS = 8
AUTO_BURNIN = 8
NOWHERE = -(1 << 60)
"""A row id far from all rows: a stream that has not started."""


class CarryMode(Protocol):
    """How windows begin, and what becomes of the states that learning computed."""

    side: Column | None
    """What it keeps beside each row."""

    def begin(self, store: Store, draw: Draw, batch: int, rows: int, learn: bool) -> Window:
        """Choose B windows of `rows` rows."""
        ...

    def update(self, store: Store, ids: np.ndarray, carry: Carry) -> None:
        """Note the states after rows ids [N]."""
        ...

    def save(self, store: Store) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint."""
        ...

    def load(self, store: Store, saved: Mapping[str, np.ndarray]) -> None:
        """Inverse of `save`, into a store that holds the same rows."""
        ...


class Zero:
    """Every window starts from zeros; `zero` and `burnin:k`."""

    def __init__(self):
        self.side: Column | None = None

    def begin(self, store: Store, draw: Draw, batch: int, rows: int, learn: bool) -> Window:
        """Any windows, no carry."""
        return draw(batch), None, torch.zeros(batch, dtype=torch.bool)

    def update(self, store: Store, ids: np.ndarray, carry: Carry) -> None:
        """Nothing is kept."""

    def save(self, store: Store) -> dict[str, np.ndarray]:
        """Nothing is kept."""
        return {}

    def load(self, store: Store, saved: Mapping[str, np.ndarray]) -> None:
        """Nothing is kept."""


class Stored:
    """Every row keeps the last state that was written at it, in side columns of the store."""

    def __init__(self, packing: Packing):
        if packing.column.nbytes > MAX_STORED_BYTES:
            raise UserError(
                f"--replay.carry=stored would keep {packing.column.nbytes / 1024:.0f} KiB of "
                f"state per row, above {MAX_STORED_BYTES // 1024} KiB; use --replay.carry=burnin:8"
            )
        self._packing = packing
        self.side: Column | None = packing.column

    def begin(self, store: Store, draw: Draw, batch: int, rows: int, learn: bool) -> Window:
        """Any windows, with what is stored at the row before each."""
        starts = draw(batch)
        before = store.gather([start - 1 for start in starts])
        return starts, *self._packing.unpack(before)

    def update(self, store: Store, ids: np.ndarray, carry: Carry) -> None:
        """Store the states at their rows; rows that are gone are left out."""
        store.scatter(ids, self._packing.pack(carry))

    def save(self, store: Store) -> dict[str, np.ndarray]:
        """The side column of every segment."""
        return {f"{s.first}.carry": store.storage.side(s) for s in store.segments.values()}

    def load(self, store: Store, saved: Mapping[str, np.ndarray]) -> None:
        """Fill the side column of every segment."""
        for segment in store.segments.values():
            store.storage.load_side(segment, saved[f"{segment.first}.carry"])


class Continue:
    """B streams, each read on from where it stopped until its lane ends or its rows are gone."""

    def __init__(self, packing: Packing, streams: int):
        self.side: Column | None = None
        self._packing = packing
        self._next = np.full(streams, NOWHERE, np.int64)
        """[B]: the row each stream reads next."""
        self._heads = torch.zeros(streams, packing.column.nbytes, dtype=torch.uint8)
        """[B, bytes], packed: the state after row `_next - 1`, where it is known."""

    def begin(self, store: Store, draw: Draw, batch: int, rows: int, learn: bool) -> Window:
        """The windows where the streams stopped; imagination takes any, without a carry."""
        if not learn:
            return draw(batch), None, torch.zeros(batch, dtype=torch.bool)
        if batch != len(self._next):
            raise ValueError(
                f"--replay.carry=continue keeps {len(self._next)} streams; sample batches of that "
                f"size, not of {batch}"
            )
        for stream in range(batch):
            if not store.holds(int(self._next[stream]), rows):
                self._heads[stream] = 0
                self._next[stream] = NOWHERE
                self._next[stream] = self._redraw(draw, rows)
        starts = self._next.tolist()
        carry, known = self._packing.unpack(self._heads)
        self._next += rows
        self._heads = torch.zeros_like(self._heads)
        return starts, carry, known

    def update(self, store: Store, ids: np.ndarray, carry: Carry) -> None:
        """Keep the states of those rows at which a stream stopped."""
        for stream, following in enumerate(self._next):
            hits = np.flatnonzero(ids == following - 1)
            if len(hits):
                row = int(hits[-1])
                last = carry.map(lambda leaf, row=row: leaf[row : row + 1])
                self._heads[stream] = self._packing.pack(last)[0]

    def save(self, store: Store) -> dict[str, np.ndarray]:
        """Where the streams stopped, and in which state."""
        return {"next": self._next, "heads": self._heads.numpy()}

    def load(self, store: Store, saved: Mapping[str, np.ndarray]) -> None:
        """Take the streams up again."""
        self._next, self._heads = saved["next"], torch.from_numpy(saved["heads"])

    def _redraw(self, draw: Draw, rows: int) -> int:
        """A start whose window overlaps no other stream's, if a few draws find one."""
        start = NOWHERE
        for _ in range(MAX_REDRAWS):
            (start,) = draw(1)
            if (np.abs(self._next - start) >= rows).all():
                break
        return start


def settle_carry(text: str, spec: Mapping[str, LeafSpec] | None) -> str:
    """The mode that `auto` stands for; any other text as it is.

    Vectors, the state of a recurrent cell, are stored; caches and matrices would take more memory
    than the observations, and are warmed up by a few rows instead.
    """
    if text != "auto":
        return text
    if spec is None:
        return "zero"
    vectors = all(len(leaf.shape) <= 1 for name, leaf in spec.items() if name != "z")
    fits = Packing(spec).column.nbytes <= MAX_STORED_BYTES
    return "stored" if vectors and fits else f"burnin:{AUTO_BURNIN}"


def make_carry(
    text: str, spec: Mapping[str, LeafSpec] | None, streams: int
) -> tuple[CarryMode, int]:
    """`zero`, `burnin:K`, `stored` or `continue` -> the mode and its number of burn-in rows."""
    name, rows = parse_carry(text)
    if name in ("zero", "burnin"):
        return Zero(), rows
    if spec is None:
        raise UserError(
            f"--replay.carry={text} needs a model with a state; use --replay.carry=zero"
        )
    packing = Packing(spec)
    return (Stored(packing), 0) if text == "stored" else (Continue(packing, streams), 0)
