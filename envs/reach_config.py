"""The options of the edge-of-reach environments; standard library only."""

from dataclasses import dataclass
from typing import Literal

from worldmodels.envs.errors import UserError
from worldmodels.envs.names import canonical_reach


@dataclass(frozen=True)
class ReachConfig:
    """A lattice whose goal draws the agent to the edge of what short rollouts can reach."""

    name: str = "reach:ramp"
    """Environment name: `reach:ramp`, `reach:bump` or `reach:rampx`, which differ in the reward."""
    half_width: int = 0
    """Episodes start on a square of cells up to this far from the centre, drawn uniformly."""
    edge: int = 10
    """Distance from the centre, max(|x|, |y|), from which on ramp and rampx pay -1. Rollouts of
    edge - half_width steps from the start cells reach the edge with their last step alone."""
    max_steps: int = 30
    """Agent steps after which an episode is truncated."""
    observation: Literal["vector", "pixels"] = "vector"
    """`vector`: (x / 10, y / 10); `pixels`: a picture with the agent's row and column lit."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_reach(self.name))
        _require(self, "name", self.goal != "plane", "reach:ramp, reach:bump or reach:rampx")
        least = 2 if self.goal == "ramp" else 6  # the other goals lie up to 5 cells out
        kinds = ("vector", "pixels")
        _require(self, "half_width", 0 <= self.half_width < self.edge, "from 0 to below edge")
        _require(self, "edge", self.edge >= least, f"at least {least}")
        _require(self, "max_steps", self.max_steps >= 1, "at least 1")
        _require(self, "observation", self.observation in kinds, f"one of {', '.join(kinds)}")

    @property
    def goal(self) -> str:
        """Which reward."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class ReachPlaneConfig:
    """The same ramp on the plane, with continuous moves."""

    name: str = "reach:plane"
    """Environment name."""
    half_width: float = 2.0
    """Episodes start anywhere up to this far from the centre in x and in y, drawn uniformly."""
    edge: float = 12.0
    """Farthest that rollouts of edge - half_width steps come; their last step alone comes farther
    than edge - 1, and beyond edge - 1 the reward is -1."""
    max_steps: int = 30
    """Agent steps after which an episode is truncated."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_reach(self.name))
        _require(self, "name", self.name == "reach:plane", "reach:plane")
        _require(self, "half_width", 0 <= self.half_width < self.edge, "from 0 to below edge")
        _require(self, "edge", self.edge >= 2, "at least 2")
        _require(self, "max_steps", self.max_steps >= 1, "at least 1")

    @property
    def goal(self) -> str:
        """Which reward."""
        return "ramp"


def _require(config: ReachConfig | ReachPlaneConfig, field: str, holds: bool, allowed: str) -> None:
    if not holds:
        value = getattr(config, field)
        raise UserError(f"{config.name}: {field} is {value}, but it must be {allowed}")
