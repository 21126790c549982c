"""The options of each built-in environment: every choice of its protocol, named and checked.

Standard library only, so that the command line can show them without loading an environment.
"""

from dataclasses import dataclass, fields
from typing import Literal

from worldmodels.envs.errors import UserError
from worldmodels.envs.names import (
    canonical_atari,
    canonical_atari100k,
    canonical_memory,
    canonical_minatar,
)


def _require(holds: bool, name: str, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise UserError(f"{name}: {field} is {value}, but it must be {allowed}")


@dataclass(frozen=True)
class CatchConfig:
    """Catch on 10 x 5 cells (bsuite, Osband et al. 2020); the options make tasks of equal returns
    that look different and whose controls conflict."""

    name: str = "catch"
    """Environment name."""
    view: Literal["upright", "flipped"] = "upright"
    """`flipped`: upside down, the ball rises to a paddle at the top."""
    inverted: bool = False
    """Lit cells are dark and dark cells lit."""
    controls: Literal["normal", "reversed", "rotated"] = "normal"
    """What actions 0, 1, 2 do: left, stay, right (`normal`); right, stay, left (`reversed`); stay,
    right, left (`rotated`)."""
    background: float = 0.0
    """Share of lit cells in a second plane, whose pattern falls as the ball does, with a new random
    row at the top of every step, and means nothing; 0: there is no second plane."""

    def __post_init__(self) -> None:
        self._check_name()
        share = 0 <= self.background < 1
        _require(share, self.name, "background", self.background, "at least 0 and below 1")
        views, controls = ("upright", "flipped"), ("normal", "reversed", "rotated")
        _require(self.view in views, self.name, "view", self.view, f"one of {', '.join(views)}")
        _require(
            self.controls in controls,
            self.name,
            "controls",
            self.controls,
            f"one of {', '.join(controls)}",
        )

    def _check_name(self) -> None:
        _require(self.name == "catch", "catch", "name", f"'{self.name}'", "'catch'")


@dataclass(frozen=True)
class MemoryCatchConfig(CatchConfig):
    """Catch whose ball is seen in the first two rows only."""

    name: str = "memory:catch"
    """Environment name."""

    def _check_name(self) -> None:
        task = "memory:catch"
        _require(self.name.lower() == task, task, "name", f"'{self.name}'", f"'{task}'")
        object.__setattr__(self, "name", task)


@dataclass(frozen=True)
class MemoryTMazeConfig:
    """Passive T-maze: the cue at the corridor's start decides the turn at its end."""

    name: str = "memory:tmaze-20"
    """Environment name, `memory:tmaze-L` for a corridor of L cells, at least 2."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_memory(self.name, "tmaze"))

    @property
    def length(self) -> int:
        """Cells of the corridor = steps from the cue to the choice."""
        return _number(self.name)


@dataclass(frozen=True)
class MemoryRepeatConfig:
    """Name the symbol that was shown some steps ago."""

    name: str = "memory:repeat-8"
    """Environment name, `memory:repeat-K` for the symbol of K steps ago, K at least 1."""
    symbols: int = 4
    """Different symbols, which is also the number of actions; 2 to 5."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_memory(self.name, "repeat"))
        _require(2 <= self.symbols <= 5, self.name, "symbols", self.symbols, "from 2 to 5")

    @property
    def delay(self) -> int:
        """Steps between a symbol and its answer."""
        return _number(self.name)


@dataclass(frozen=True)
class AtariConfig:
    """One Atari game; the defaults are the protocol of the Atari100k benchmark."""

    name: str = "atari:Pong"
    """Environment name, `atari:GAME`."""
    frame_skip: int = 4
    """Emulator frames per agent step; the action is held and the rewards are summed."""
    max_pool: Literal[1, 2] = 2
    """Emulator frames in the pixelwise maximum: 2 removes sprite flicker, 1 is off."""
    sticky: float = 0.0
    """Probability, per emulator frame, that the previous action runs again (Machado et al. 2018
    use 0.25)."""
    noop_max: int = 30
    """A reset plays 0 to this many no-op frames, drawn uniformly, so that starts differ."""
    full_action_space: bool = False
    """All 18 actions instead of the game's own minimal set."""
    image_size: int = 64
    """Side of the square image in pixels, a multiple of 16."""
    grayscale: bool = False
    """One luminance channel instead of RGB."""
    resize: Literal["bilinear", "box"] = "bilinear"
    """Pillow filter for the resize, applied after the maximum."""
    reward_clip: bool = False
    """Clip each step's reward to [-1, 1]; scores then count clipped rewards."""
    fire_on_reset: bool = False
    """Press FIRE for one frame after each reset, in games that have the button."""
    max_frames: int = 108_000
    """Emulator frames after which a game is truncated, no-ops not counted (108000 = 30 minutes)."""
    life_loss: Literal["off", "flag", "episode"] = "off"
    """What a lost life does: nothing; `flag`: it ends value, the episode goes on; `episode`: it
    ends the episode too, and the next one continues the same game."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self._canonical_name())
        rules = {
            "frame_skip": (self.frame_skip >= 1, "at least 1"),
            "max_pool": (self.max_pool in (1, 2), "1 or 2"),
            "sticky": (0 <= self.sticky <= 1, "a probability in [0, 1]"),
            "noop_max": (self.noop_max >= 0, "at least 0"),
            "image_size": (_is_image_size(self.image_size), "a positive multiple of 16"),
            "resize": (self.resize in ("bilinear", "box"), "'bilinear' or 'box'"),
            "max_frames": (self.max_frames >= 1, "at least 1"),
            "life_loss": (
                self.life_loss in ("off", "flag", "episode"),
                "'off', 'flag' or 'episode'",
            ),
        }
        for field, (holds, allowed) in rules.items():
            _require(holds, self.name, field, getattr(self, field), allowed)

    def _canonical_name(self) -> str:
        return canonical_atari(self.name)


@dataclass(frozen=True)
class Atari100kConfig(AtariConfig):
    """One of the 26 games under the Atari100k protocol, which is fixed."""

    name: str = "atari100k:Pong"
    """Environment name, `atari100k:GAME`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "name" and value != field.default:
                game = self.name.partition(":")[2]
                raise UserError(
                    f"{self.name}: the protocol fixes {field.name} at {field.default}, not "
                    f"{value}; use 'atari:{game}' to choose it"
                )

    def _canonical_name(self) -> str:
        return canonical_atari100k(self.name)


@dataclass(frozen=True)
class MinAtarConfig:
    """One MinAtar game; the defaults are MinAtar's own, with a time limit added."""

    name: str = "minatar:breakout"
    """Environment name, `minatar:GAME`."""
    sticky: float = 0.1
    """Probability, per step, that the previous action runs again."""
    difficulty_ramping: bool = True
    """The game becomes faster as it goes on."""
    full_action_space: bool = False
    """All 6 actions instead of the game's own minimal set."""
    max_steps: int = 5000
    """Agent steps after which an episode is truncated."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", canonical_minatar(self.name))
        _require(0 <= self.sticky <= 1, self.name, "sticky", self.sticky, "a probability in [0, 1]")
        _require(self.max_steps >= 1, self.name, "max_steps", self.max_steps, "at least 1")


@dataclass(frozen=True)
class GymConfig:
    """Any Gymnasium id with Discrete or Box actions."""

    name: str = "gym:CartPole-v1"
    """Environment name, `gym:ID`; `gym:my_package:ID` imports `my_package` first."""
    image_size: int = 64
    """Side in pixels to which image observations are resized, a multiple of 16; 0 keeps their
    own size."""
    max_steps: int = 0
    """Agent steps after which an episode is truncated; 0 keeps the environment's own limit."""

    def __post_init__(self) -> None:
        family, _, env_id = self.name.partition(":")
        _require(family == "gym" and bool(env_id), "gym", "name", f"'{self.name}'", "'gym:ID'")
        _require(
            self.image_size == 0 or _is_image_size(self.image_size),
            self.name,
            "image_size",
            self.image_size,
            "0 or a positive multiple of 16",
        )
        _require(self.max_steps >= 0, self.name, "max_steps", self.max_steps, "at least 0")


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _is_image_size(size: int) -> bool:
    return size > 0 and size % 16 == 0
