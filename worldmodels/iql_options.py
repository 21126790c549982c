"""Options of implicit Q-learning; imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from worldmodels.bounds import check_bounds


@dataclass(frozen=True)
class IQLConfig:
    """Policy and values from replayed states alone, for static data."""

    SHAPES: ClassVar[tuple[str, ...]] = ("layers", "units", "critics")
    imagination_length: ClassVar[int] = 0
    starts: ClassVar[int] = 0
    context: ClassVar[int] = 0
    name: Literal["iql"] = "iql"
    """Which actor-critic this is."""
    layers: int = 2
    """Hidden layers of policy, value and action values."""
    units: int = 256
    """Their width."""
    critics: int = 2
    """Action-value networks, of which the least counts."""
    expectile: float = 0.7
    """Which expectile of the action values a state is worth; 0.5 is their mean."""
    temperature: float = 3.0
    """Inverse temperature of the advantage in the policy's weights; 0 clones the behaviour."""
    largest_weight: float = 100.0
    """Bound of those weights."""
    slow_rate: float = 0.005
    """How far the slow action values move after every update."""
    unimix: float = 0.0
    """Share of the uniform distribution in a discrete policy."""

    def __post_init__(self):
        least = {"layers": 1, "units": 1, "critics": 1, "temperature": 0, "largest_weight": 0}
        check_bounds(self, "actor_critic.", least, ("expectile", "slow_rate", "unimix"))
