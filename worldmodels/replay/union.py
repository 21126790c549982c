"""Several retentions side by side; WMAR's is one."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from worldmodels.replay.files import Prefixed
from worldmodels.replay.retention import Dropped, Fifo, Reservoir, Retention, Room
from worldmodels.replay.rows import Rollout
from worldmodels.replay.segment import Segment


class Union:
    """A segment stays as long as one of the parts keeps it.

    `parts`: name -> (retention, share of the draws).
    """

    def __init__(self, parts: Mapping[str, tuple[Retention, float]]):
        self._parts = {name: part for name, (part, _) in parts.items()}
        self.max_segments = sum(part.max_segments for part in self._parts.values())
        self.pools = {
            f"{name}/{pool}": (rows, share * within)
            for name, (part, share) in parts.items()
            for pool, (rows, within) in part.pools.items()
        }

    def make_room(self, rows: int, opening: int) -> Dropped:
        """What no part keeps any more."""
        return self._gone([p.make_room(rows, opening) for p in self._parts.values()])

    def arrived(self, segment: Segment, fresh: int) -> None:
        """Tell every part."""
        for part in self._parts.values():
            part.arrived(segment, fresh)

    def closed(self, segment: Segment, rollout: Rollout) -> Dropped:
        """What no part keeps any more."""
        return self._gone([part.closed(segment, rollout) for part in self._parts.values()])

    def holds(self, segment: Segment) -> bool:
        """Whether a part keeps it."""
        return any(part.holds(segment) for part in self._parts.values())

    def lose(self, segment: Segment) -> None:
        """Tell the parts that hold it."""
        for part in self._parts.values():
            if part.holds(segment):
                part.lose(segment)

    def save(self) -> dict[str, np.ndarray]:
        """All parts."""
        return {
            f"{name}/{key}": value
            for name, part in self._parts.items()
            for key, value in part.save().items()
        }

    def load(self, saved: Mapping[str, np.ndarray], segments: Mapping[int, Segment]) -> None:
        """Inverse of `save`."""
        for name, part in self._parts.items():
            part.load(Prefixed(saved, f"{name}/"), segments)

    def describe(self) -> str:
        """What it keeps."""
        return " and ".join(part.describe() for part in self._parts.values())

    def _gone(self, dropped: Iterable[Dropped]) -> Dropped:
        unique = {segment.first: segment for part in dropped for segment in part}
        return [segment for segment in unique.values() if not self.holds(segment)]


class Wmar(Union):
    """The newest rows, and a uniform sample of all rollouts ever seen (WMAR's two buffers).

    Yang et al. 2024 (arXiv 2401.16650): both are offered every rollout, and share the capacity and
    the draws, half and half unless `long_term_share` says otherwise.
    """

    TWO_PARTS = True
    """`long_term_share` divides the capacity."""

    def __init__(self, room: Room):
        share = room.long_term_share
        kept = round(room.capacity * share)
        recent = Fifo(replace(room, capacity=room.capacity - kept))
        long_term = Reservoir(replace(room, capacity=kept))
        super().__init__({"fifo": (recent, 1 - share), "reservoir": (long_term, share)})
