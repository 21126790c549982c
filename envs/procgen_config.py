"""The options of Procgen, and what they may be in which game.

Standard library only: the command line shows them without loading the emulator.
"""

import platform
import sys
from dataclasses import dataclass, replace
from typing import Literal

from worldmodels.envs.errors import UserError
from worldmodels.envs.names import canonical_procgen

_MODES = {
    "extreme": {"chaser", "dodgeball", "leaper", "starpilot"},
    "memory": {"caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"},
    "exploration": {
        "caveflyer",
        "climber",
        "coinrun",
        "heist",
        "jumper",
        "leaper",
        "maze",
        "ninja",
    },
}
"""The games of a distribution mode; every game has `easy` and `hard`."""

_LIMITS = {"bigfish": 6000, "bossfight": 4000, "plunder": 4000, "leaper": 500, "maze": 500}
"""Steps in an episode, as the emulator has them; 1000 in all other games."""
_LONG_MEMORY = {"jumper": 2000}

_SEEDS = 2**31
"""Level seeds run from 0 to this, exclusive."""


@dataclass(frozen=True)
class ProcgenConfig:
    """One Procgen game (Cobbe et al. 2020); the defaults are the library's own."""

    name: str = "procgen:coinrun"
    """Environment name, `procgen:GAME`."""
    distribution_mode: Literal["easy", "hard", "extreme", "memory", "exploration"] = "hard"
    """How levels are drawn; every game has `easy` and `hard`, and `exploration` is one hard level,
    fixed for each game."""
    num_levels: int = 0
    """Different levels, `start_level` and those after it; 0 is all of them."""
    start_level: int = 0
    """First level of the set that `num_levels` bounds."""
    use_sequential_levels: bool = False
    """A completed level leads to another one within the same episode."""
    use_backgrounds: bool = True
    """Pictures behind the game; otherwise black."""
    restrict_themes: bool = False
    """One theme (walls, enemies, background) for every level, where a game has several."""
    use_generated_assets: bool = False
    """Procedural textures instead of drawn ones; levels of the same seed then differ too."""
    use_monochrome_assets: bool = False
    """Every object is a rectangle of one colour."""
    center_agent: bool = True
    """The view follows the agent, in games that scroll; otherwise it shows the whole level."""
    paint_vel_info: bool = False
    """Paint the agent's velocity into the corner, where the game has one."""
    max_steps: int = 0
    """Agent steps after which an episode is truncated; 0 keeps the game's own limit."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_procgen(self.name))
        modes = self.modes
        is_set = self.num_levels > 0 and self.distribution_mode != "exploration"
        last = _SEEDS - 1 - self.num_levels
        rules = {
            "distribution_mode": (self.distribution_mode in modes, " or ".join(modes)),
            "num_levels": (
                0 <= self.num_levels < _SEEDS
                and (self.num_levels == 0 or self.distribution_mode != "exploration"),
                "0 in the mode 'exploration', which fixes the level"
                if self.distribution_mode == "exploration"
                else f"from 0 to {_SEEDS - 1}",
            ),
            "start_level": (
                0 <= self.start_level <= (last if is_set else 0),
                f"from 0 to {last}" if is_set else "0 without a num_levels that bounds the set",
            ),
            "max_steps": (self.max_steps >= 0, "at least 0"),
        }
        for field, (holds, allowed) in rules.items():
            if not holds:
                value = getattr(self, field)
                raise UserError(f"{self.name}: {field} is {value}, but it must be {allowed}")

    @property
    def modes(self) -> list[str]:
        """The distribution modes that the game has."""
        more = [mode for mode, games in _MODES.items() if self.game in games]
        return ["easy", "hard", *more]

    @property
    def game(self) -> str:
        """`coinrun` of `procgen:coinrun`."""
        return self.name.partition(":")[2]

    @property
    def time_limit(self) -> int:
        """Steps after which the emulator itself ends an episode."""
        if self.distribution_mode == "memory" and self.game in _LONG_MEMORY:
            return _LONG_MEMORY[self.game]
        return _LIMITS.get(self.game, 1000)

    @property
    def evaluations(self) -> "dict[str, ProcgenConfig]":
        """What a trained agent is tested on: its own levels and, where these are a set, all."""
        everything = replace(self, num_levels=0, start_level=0)
        held_out = {f"{self.name} all levels": everything} if self.num_levels else {}
        return {self.name: self, **held_out}


def install_command(
    system: str = sys.platform,
    machine: str = platform.machine(),
    python: tuple[int, int] = sys.version_info[:2],
) -> str:
    """What installs Procgen here, or where it can be installed."""
    command = 'pip install "worldmodels-rl[procgen]"'
    if (system, machine) == ("linux", "x86_64") and python < (3, 13):
        return command
    return (
        f"{command} with Python 3.11 or 3.12 on Linux x86-64 (Python {python[0]}.{python[1]} on "
        f"{system} {machine} has no wheel whose emulator worldmodels can drive)"
    )
