"""A segment: consecutive rows of one lane, the unit that is kept, written and forgotten.

A row's id is `(lane << 40) | position`. Consecutive ids are the only truth about what follows
what. Every segment starts at a position that is a multiple of its size, so that a row's segment
follows from its id; where a lane is cut, ids are skipped.
"""

from dataclasses import dataclass

from worldmodels.replay.files import FileRecord

LANE_SHIFT = 40
POSITION = (1 << LANE_SHIFT) - 1
"""Mask of the position within a row's id."""


@dataclass(eq=False, slots=True)
class Segment:
    """Up to `segment_rows` consecutive rows of one lane: a rollout, once it is closed."""

    first: int
    """Id of its first row."""
    born: int
    """How many rows every lane had seen when its first row arrived."""
    slot: int
    """Where the storage keeps its rows."""
    rows: int = 0
    open: bool = True
    """Whether its lane still adds to it."""
    file: FileRecord | None = None
    """Where its rows are on disk, once they are."""

    @property
    def lane(self) -> int:
        """The environment that its rows come from."""
        return self.first >> LANE_SHIFT
