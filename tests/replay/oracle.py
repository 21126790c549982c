"""What a replay keeps, as plain lists: the rules of its documentation and nothing clever."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

LANES, PART, SEGMENT, SEED = 2, 40, 5, 11
"""PART: rows of FIFO, and of the reservoir."""
ROLLOUTS = PART // SEGMENT


@dataclass(eq=False)
class Piece:
    """Consecutive rows of a lane, from id `first` on."""

    first: int
    rows: int = 0
    open: bool = True

    @property
    def lane(self) -> int:
        return self.first >> 40

    @property
    def ids(self) -> list[int]:
        return list(range(self.first, self.first + self.rows))

    @property
    def key(self) -> float:
        """A Gumbel variate of the seed and the id."""
        return np.random.Generator(np.random.Philox(key=[SEED, self.first])).gumbel()


class Oracle:
    """`retention`: fifo, reservoir or wmar; `window`: rows of the windows, burn-in included."""

    def __init__(self, retention: str, window: int):
        self.has_fifo, self.has_reservoir = retention != "reservoir", retention != "fifo"
        self.window = window
        self.fifo: list[Piece] = []
        self.offered: list[Piece] = []
        self.opened: dict[int, Piece] = {}
        self.listed: list[Piece] = []
        self.shown: list[Piece] | None = None
        """After a restore, what the folder shows until something is written."""
        """What a killed process leaves behind, oldest first."""
        self.next: list[int | None] = [lane << 40 for lane in range(LANES)]
        self.last = [-1] * LANES
        self.states: dict[int, int] = {}
        """Row id -> seed of the carry last written at it."""
        self.forget_draws()

    def forget_draws(self) -> None:
        self.learned: dict[int, int] = {}
        self.imagined: dict[int, int] = {}
        self.batch, self.ratio = 0, 0.0

    @property
    def long_term(self) -> list[Piece]:
        return sorted(self.offered, key=lambda piece: piece.key)[-ROLLOUTS:]

    @property
    def resident(self) -> list[Piece]:
        kept = {*self.fifo, *self.long_term, *self.opened.values()}
        return [piece for piece in self.listed if piece in kept]

    def add(self, ids: list[int]) -> None:
        closed = self.make_room(LANES, LANES - len(self.opened))
        for lane, row in enumerate(ids):
            if self.next[lane] is None:  # after a crash: anywhere, but in a segment of its own
                assert self.last[lane] < 0 or row > self.last[lane] + 1
                assert (row & ((1 << 40) - 1)) % SEGMENT == 0
                self.next[lane] = row
            assert row == self.next[lane]
            if lane not in self.opened:
                self.opened[lane] = Piece(row)
                self.listed.append(self.opened[lane])
                self.fifo += [self.opened[lane]] if self.has_fifo else []
            self.opened[lane].rows += 1
            self.next[lane], self.last[lane] = row + 1, row
        full = [piece for piece in self.opened.values() if piece.rows == SEGMENT]
        closed += [self.close(piece) for piece in sorted(full, key=lambda piece: piece.lane)]
        self.unlist(closed)

    def make_room(self, rows: int, opening: int) -> list[Piece]:
        closed = []
        while self.fifo and (
            sum(piece.rows for piece in self.fifo) + rows > PART
            or len(self.fifo) + opening > ROLLOUTS + LANES
        ):
            oldest = self.fifo.pop(0)
            if oldest.open:
                opening += 1
                closed.append(self.cut(oldest.lane))
        return closed

    def cut(self, lane: int) -> Piece | None:
        at = self.next[lane]
        if at is not None:
            position = at & ((1 << 40) - 1)
            self.next[lane] = (lane << 40) + (position // SEGMENT + 1) * SEGMENT
        return self.close(self.opened[lane]) if lane in self.opened else None

    def end_lane(self, lane: int) -> None:
        if self.next[lane] is None:
            return
        self.unlist([self.cut(lane)])

    def close(self, piece: Piece) -> Piece:
        piece.open = False
        self.opened.pop(piece.lane, None)
        if self.has_reservoir and piece.rows >= self.window:
            self.offered.append(piece)
        return piece

    def unlist(self, closed: Sequence[Piece | None]) -> None:
        """What was dropped before it had a file leaves nothing behind."""
        kept = self.resident
        self.listed = [p for p in self.listed if p not in closed or p in kept]

    def lose(self, firsts: set[int]) -> int:
        """These leave; what left before does not come back. Returns how many rows that are."""
        gone = [piece for piece in self.resident if piece.first in firsts]
        self.offered = [piece for piece in self.long_term if piece not in gone]
        self.fifo = [piece for piece in self.fifo if piece not in gone]
        self.listed = [piece for piece in self.listed if piece not in gone]
        return sum(piece.rows for piece in gone)

    def begin_anew(self) -> None:
        """The folder tells of what is resident, and of nothing else."""
        self.listed, self.shown = self.resident, None

    def recover(self) -> int:
        """All that is listed arrives again; returns how many rows that are."""
        self.fifo, self.offered, self.opened = [], [], {}
        for piece in self.listed:
            self.make_room(piece.rows, 1)
            self.fifo += [piece] if self.has_fifo else []
            self.close(piece)
        rows = sum(piece.rows for piece in self.listed)
        self.begin_anew()
        self.next = [None] * LANES
        self.states.clear()
        self.forget_draws()
        return rows

    @staticmethod
    def within(ids: list[int], rows: int) -> list[int]:
        held = set(ids)
        return [row for row in ids if all(row + t in held for t in range(rows))]

    def starts(self, rows: int) -> list[list[int]]:
        """Where windows can start, by pool: FIFO over segments, a reservoir within one."""
        pools = []
        if self.has_fifo:
            pools.append(self.within([row for piece in self.fifo for row in piece.ids], rows))
        if self.has_reservoir:
            pools.append([row for piece in self.long_term for row in self.within(piece.ids, rows)])
        return pools

    def stitched(self, rows: int) -> list[int]:
        """Where unseen windows and streams can go on: anything resident."""
        return self.within([row for piece in self.resident for row in piece.ids], rows)

    def drawn(self, starts: list[int], purpose: str) -> None:
        """Counters of dynamic frequency sampling."""
        if purpose == "learn":
            self.batch = len(starts)
        elif not self.ratio:
            self.ratio = len(starts) / (self.batch or len(starts))
        counts = self.learned if purpose == "learn" else self.imagined
        for start in starts:
            counts[start] = counts.get(start, 0) + 1

    def weight(self, start: int, purpose: str) -> float:
        """Drama: exp(-c / 10), and exp(min(0, c - m') / 10) for imagination."""
        seen = self.learned.get(start, 0)
        if purpose == "learn":
            return exp(-seen / 10)
        return exp(min(0.0, seen - self.imagined.get(start, 0) / self.ratio) / 10)
