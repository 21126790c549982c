"""Options of imagination in known dynamics; imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class KnownConfig:
    """The environment's own rules instead of a learned world model."""

    SHAPES: ClassVar[tuple[str, ...]] = ()
    BACKBONE: ClassVar[bool] = False
    name: Literal["known"] = "known"
    """Which world model this is."""
    starts: Literal["all", "first"] = "all"
    """Where imagination starts: `all` rows, as in any run, or only those that open an episode,
    drawn anew in every update. The second keeps states that no rollout from a start reaches out of
    every update, however far the agent has been."""
