"""Which rows stay: first in first out, or a sample of everything.

A closed segment is a rollout: consecutive rows of one lane, over any number of episodes (WMAR's
spliced rollout, Yang et al. 2024, arXiv 2401.16650). No rule reads which task a row belongs to.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.pool import Pool
from worldmodels.replay.rows import Rollout
from worldmodels.replay.segment import Segment

Dropped: TypeAlias = list[Segment]
"""Segments that a rule keeps no longer."""


@dataclass(frozen=True)
class Room:
    """What a retention is built from."""

    capacity: int
    """Rows that it may keep."""
    segment_rows: int
    window: int
    """Rows of the windows that will be drawn, burn-in included."""
    lanes: int
    seed: int
    long_term_share: float = 0.5
    """Share of the long-term part, where a retention has two."""

    @property
    def rollouts(self) -> int:
        """Whole segments that the capacity holds."""
        return self.capacity // self.segment_rows


class Retention(Protocol):
    """Decides which segments stay; windows are drawn from its pools. Built from a `Room`."""

    pools: dict[str, tuple[Pool, float]]
    """Name -> rows that windows may start at, and their share of the draws."""
    max_segments: int
    """Segments it ever needs at once, those that lanes are filling included."""

    def make_room(self, rows: int, opening: int) -> Dropped:
        """So many rows are about to arrive, and to open so many segments."""
        ...

    def arrived(self, segment: Segment, fresh: int) -> None:
        """The segment's last `fresh` rows have just arrived."""
        ...

    def closed(self, segment: Segment, rollout: Rollout) -> Dropped:
        """The segment gets no more rows."""
        ...

    def holds(self, segment: Segment) -> bool:
        """Whether it keeps this segment."""
        ...

    def lose(self, segment: Segment) -> None:
        """A closed segment that it holds is gone: its file was damaged."""
        ...

    def save(self) -> dict[str, np.ndarray]:
        """What a checkpoint has to hold beside the segments."""
        ...

    def load(self, saved: Mapping[str, np.ndarray], segments: Mapping[int, Segment]) -> None:
        """Inverse of `save`, or begin anew where `saved` is empty.

        `segments` are all that are resident, oldest first.
        """
        ...

    def describe(self) -> str:
        """What it keeps, in a few words."""
        ...


class Fifo:
    """Keeps the newest `capacity` rows; whole segments leave, oldest first row first."""

    def __init__(self, room: Room):
        self._capacity = room.capacity
        self.max_segments = room.rollouts + room.lanes
        self._pool = Pool(stitched=True)
        self.pools = {"recent": (self._pool, 1.0)}
        self._segments: dict[int, Segment] = {}
        """Oldest first, open ones included."""
        self._rows = 0

    def make_room(self, rows: int, opening: int) -> Dropped:
        """Drop until the rows fit, and the segments too: lanes that are cut often leave short
        ones behind, so rows alone would not bound memory.
        """
        dropped = []
        while self._segments and (
            self._rows + rows > self._capacity or len(self._segments) + opening > self.max_segments
        ):
            segment = next(iter(self._segments.values()))
            opening += segment.open
            self.lose(segment)
            dropped.append(segment)
        return dropped

    def arrived(self, segment: Segment, fresh: int) -> None:
        """They may be drawn at once."""
        self._segments[segment.first] = segment
        self._rows += fresh
        old = segment.rows - fresh
        self._pool.add(segment.first + old, fresh, grows=old > 0)

    def closed(self, segment: Segment, rollout: Rollout) -> Dropped:
        """Nothing changes."""
        return []

    def holds(self, segment: Segment) -> bool:
        """Whether it is among the newest."""
        return segment.first in self._segments

    def lose(self, segment: Segment) -> None:
        """Those around it stay."""
        del self._segments[segment.first]
        self._rows -= segment.rows
        self._pool.remove(segment.first, segment.rows)

    def save(self) -> dict[str, np.ndarray]:
        """Which segments are its own."""
        return {"segments": np.array(list(self._segments), np.int64)}

    def load(self, saved: Mapping[str, np.ndarray], segments: Mapping[int, Segment]) -> None:
        """Take them up again."""
        for segment in list(self._segments.values()):
            self._pool.remove(segment.first, segment.rows)
        mine = saved["segments"].tolist() if saved else []
        self._segments = {first: segments[first] for first in mine}
        self._rows = sum(segment.rows for segment in self._segments.values())
        for segment in self._segments.values():
            self._pool.add(segment.first, segment.rows, grows=False)

    def describe(self) -> str:
        """What it keeps."""
        return f"the newest {self._capacity} rows"


class Reservoir:
    """Keeps a sample of all rollouts that ever closed, each of them as likely as any other.

    Long-term distribution matching of WMAR, after Isele and Cosgun 2018 (arXiv 1802.10269): every
    rollout gets one random key, drawn once, and the largest keys stay. A rollout's key depends on
    the seed and its id alone, so that no order, no restart and no crash can draw it twice.
    """

    name = "reservoir"

    def __init__(self, room: Room):
        if room.segment_rows < room.window:
            raise UserError(
                f"a reservoir keeps rollouts of {room.segment_rows} rows, shorter than the windows "
                f"of {room.window} rows drawn from them; raise --replay.segment or "
                "--replay.capacity, or draw shorter windows"
            )
        self._size = room.rollouts
        self._window = room.window
        self._seed = room.seed
        self.max_segments = room.rollouts + room.lanes
        self._pool = Pool(stitched=False)
        self.pools = {"long-term": (self._pool, 1.0)}
        self._heap: list[tuple[float, int]] = []
        """(key, id of the first row), the smallest key on top."""
        self._segments: dict[int, Segment] = {}

    def log_weight(self, rollout: Rollout) -> float:
        """Logarithm of how much likelier than others this rollout is to stay; uniform: 0."""
        del rollout
        return 0.0

    def key(self, segment: Segment, rollout: Rollout) -> float:
        """A Gumbel variate plus the log-weight.

        The largest are a sample without replacement with probabilities proportional to
        the weights (Efraimidis and Spirakis 2006: u^(1/w), here its -log(-log(.))).
        """
        random = np.random.Generator(np.random.Philox(key=[self._seed, segment.first]))
        return random.gumbel() + self.log_weight(rollout)

    def make_room(self, rows: int, opening: int) -> Dropped:
        """Room is made when a rollout closes."""
        return []

    def arrived(self, segment: Segment, fresh: int) -> None:
        """Rows wait until their rollout closes."""

    def closed(self, segment: Segment, rollout: Rollout) -> Dropped:
        """Keep it, or another; a rollout without a whole window could never be drawn."""
        if segment.rows < self._window:
            return [segment]
        key = self.key(segment, rollout)
        if math.isnan(key):
            raise UserError(
                f"{type(self).__name__} gave a rollout a key that is no number; look at its "
                "log_weight, and at the rewards"
            )
        self._keep(key, segment)
        if len(self._heap) <= self._size:
            return []
        _, first = heapq.heappop(self._heap)
        loser = self._segments[first]
        self._forget(loser)
        return [loser]

    def holds(self, segment: Segment) -> bool:
        """Whether it is in the sample."""
        return segment.first in self._segments

    def lose(self, segment: Segment) -> None:
        """The next rollout takes its place, whatever its key."""
        self._heap = [pair for pair in self._heap if pair[1] != segment.first]
        heapq.heapify(self._heap)
        self._forget(segment)

    def save(self) -> dict[str, np.ndarray]:
        """Which rollouts are in the sample, and their keys."""
        return {
            "segments": np.array([first for _, first in self._heap], np.int64),
            "keys": np.array([key for key, _ in self._heap], np.float64),
        }

    def load(self, saved: Mapping[str, np.ndarray], segments: Mapping[int, Segment]) -> None:
        """Take them up again."""
        for segment in self._segments.values():
            self._pool.remove(segment.first, segment.rows)
        self._heap.clear()
        self._segments.clear()
        if saved:
            pairs = zip(saved["segments"].tolist(), saved["keys"].tolist(), strict=True)
            for first, key in pairs:
                self._keep(key, segments[first])

    def _keep(self, key: float, segment: Segment) -> None:
        heapq.heappush(self._heap, (key, segment.first))
        self._segments[segment.first] = segment
        self._pool.add(segment.first, segment.rows, grows=False)

    def _forget(self, segment: Segment) -> None:
        """A rollout that has left the heap."""
        del self._segments[segment.first]
        self._pool.remove(segment.first, segment.rows)

    def describe(self) -> str:
        """What it keeps."""
        return f"a {self.name} of {self._size} rollouts out of all ever seen"


class RewardWeighted(Reservoir):
    """A reservoir in which a rollout stays with a weight of exp(its sum of rewards).

    Reward-weighted replay of Continual-Dreamer (Kessler et al. 2023, arXiv 2211.15944), whose
    probability exp(return - largest return) this is, for what stays instead of what is drawn.
    """

    name = "reward-weighted reservoir"

    def log_weight(self, rollout: Rollout) -> float:
        """The sum of rewards."""
        return math.fsum(rollout.reward)
