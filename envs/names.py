"""Environment names, their spellings, and the near names that an error lists.

Standard library only: `worldmodels --help` and every config come through here.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from worldmodels.envs.errors import UserError

ATARI_100K = (
    "Alien",
    "Amidar",
    "Assault",
    "Asterix",
    "BankHeist",
    "BattleZone",
    "Boxing",
    "Breakout",
    "ChopperCommand",
    "CrazyClimber",
    "DemonAttack",
    "Freeway",
    "Frostbite",
    "Gopher",
    "Hero",
    "Jamesbond",
    "Kangaroo",
    "Krull",
    "KungFuMaster",
    "MsPacman",
    "Pong",
    "PrivateEye",
    "Qbert",
    "RoadRunner",
    "Seaquest",
    "UpNDown",
)
"""The 26 games of the Atari100k benchmark (SimPLe, Kaiser et al. 2020)."""

MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""The five MinAtar games (Young and Tian 2019)."""

PROCGEN = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)
"""The 16 Procgen games (Cobbe et al. 2020)."""

MEMORY_EXAMPLES = (
    "memory:catch",
    "memory:tmaze-20",
    "memory:tmaze-100",
    "memory:repeat-2",
    "memory:repeat-8",
)
"""Memory tasks that `worldmodels envs` lists; other numbers work as well."""

_MEMORY_NUMBERS = {"tmaze": ("the corridor's length", 2, 20), "repeat": ("the delay", 1, 8)}
"""What the number in a memory task's name is, its least value and an example."""

GYM_EXAMPLES = ("gym:CartPole-v1", "gym:Acrobot-v1", "gym:MountainCar-v0", "gym:Pendulum-v1")
"""Gymnasium ids that `worldmodels envs` lists; any other id works as well."""

REACH = ("ramp", "bump", "rampx", "plane")
"""The edge-of-reach environments: three rewards on a lattice, and the plane."""

CONTINUAL = ("catch", "minatar", "coinrun", "atari")
"""The built-in task streams; `continual:FILE.yaml` is any other."""

_NO_SINGLE_PLAYER = {"combat", "joust", "maze_craze", "warlords"}


@cache
def atari_roms() -> dict[str, str]:
    """Game name -> ROM id of every single-player game that the installed ale-py holds."""
    package = find_spec("ale_py")  # finds the folder without importing it (and numpy with it)
    folders = package.submodule_search_locations if package else None
    ids = {path.stem for folder in folders or [] for path in Path(folder, "roms").glob("*.bin")}
    return {rom.title().replace("_", ""): rom for rom in sorted(ids - _NO_SINGLE_PLAYER)}


def known_names() -> list[str]:
    """Every name of the built-in families, with a few examples of `memory:` and `gym:`."""
    return [
        "catch",
        *MEMORY_EXAMPLES,
        *(f"minatar:{game}" for game in MINATAR),
        *(f"atari:{game}" for game in {**dict.fromkeys(ATARI_100K), **atari_roms()}),
        *(f"atari100k:{game}" for game in ATARI_100K),
        *(f"procgen:{game}" for game in PROCGEN),
        *GYM_EXAMPLES,
        *(f"reach:{task}" for task in REACH),
        *(f"continual:{stream}" for stream in CONTINUAL),
    ]


def family(name: str) -> str:
    """`atari` of `atari:Pong`, `memory:tmaze` of `memory:tmaze-20`; the plane of reach is apart."""
    prefix, _, rest = name.partition(":")
    if name.lower() == "reach:plane":
        return "reach:plane"
    task = re.match("[a-z]+", rest.lower())
    return f"memory:{task[0]}" if prefix == "memory" and task else prefix


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or nothing where no name is close.

    A name also counts by the part after its colon, so that a bare `Pong` finds `atari:Pong`; but
    `Catch` finds `catch`, not `memory:catch`.
    """
    names = list(names)
    whole = {name.lower() for name in names}
    by_spelling = {name.lower(): [name] for name in names}
    for name in names:
        spelling = name.partition(":")[2].lower()
        if spelling and spelling not in whole:
            by_spelling.setdefault(spelling, []).append(name)
    close = get_close_matches(word.lower(), by_spelling, n=2, cutoff=0.7)
    # An exact spelling is what was meant; its neighbours (Pong, Pooyan) would be noise.
    close = close[:1] if word.lower() in close else close
    found = list(dict.fromkeys(name for spelling in close for name in by_spelling[spelling]))[:3]
    return "; did you mean " + " or ".join(f"'{name}'" for name in found) + "?" if found else ""


def canonical_atari(name: str) -> str:
    """`atari:GAME` for any spelling of GAME: case, `_`, `-`, `ALE/` and `-v5` do not matter."""
    return _canonical(name, "atari", "Atari game", atari_roms() or ATARI_100K)


def canonical_atari100k(name: str) -> str:
    """`atari100k:GAME` for any spelling of one of the 26 games."""
    game = canonical_atari(name).partition(":")[2]
    if game not in ATARI_100K:
        raise UserError(
            f"'{game}' is not one of the 26 games of Atari100k; use 'atari:{game}' "
            "(`worldmodels envs` lists the 26)"
        )
    return f"atari100k:{game}"


def canonical_minatar(name: str) -> str:
    """`minatar:game` for any spelling of game."""
    return _canonical(name, "minatar", "MinAtar game", MINATAR)


def canonical_procgen(name: str) -> str:
    """`procgen:game` for any spelling of game."""
    return _canonical(name, "procgen", "Procgen game", PROCGEN)


def canonical_memory(name: str, task: str) -> str:
    """`memory:TASK-N`; case and leading zeros do not matter."""
    number, least, example = _MEMORY_NUMBERS[task]
    found = re.fullmatch(rf"memory:{task}-([0-9]{{1,6}})", name.lower())
    if found is None or int(found[1]) < least:
        raise UserError(
            f"'{name}' needs {number} in its name, a whole number from {least} to 999999: for "
            f"example 'memory:{task}-{example}'"
        )
    return f"memory:{task}-{int(found[1])}"


def canonical_reach(name: str) -> str:
    """`reach:task` for any spelling of task."""
    return _canonical(name, "reach", "edge-of-reach environment", REACH)


def canonical_continual(name: str) -> str:
    """`continual:STREAM`, or `continual:` and the absolute path of a YAML file."""
    stream = name.partition(":")[2]
    if stream.lower() in CONTINUAL:
        return f"continual:{stream.lower()}"
    if stream.endswith((".yaml", ".yml")):
        return f"continual:{Path(stream).expanduser().absolute()}"
    known = [f"continual:{stream}" for stream in CONTINUAL]
    near = did_you_mean(stream, known) or f"; there are {', '.join(known)}"
    raise UserError(
        f"unknown task stream '{stream}' (one of your own is a file, as continual:my_tasks.yaml)"
        f"{near}"
    )


def _canonical(name: str, family: str, kind: str, games: Iterable[str]) -> str:
    game = name.partition(":")[2]
    by_spelling = {_spelling(known): known for known in games}
    known = by_spelling.get(_spelling(game))
    if known is None:
        near = did_you_mean(game, [f"{family}:{known}" for known in games])
        near = near or did_you_mean(game, known_names())
        raise UserError(f"unknown {kind} '{game}'{near or '; `worldmodels envs` lists the names'}")
    return f"{family}:{known}"


def _spelling(game: str) -> str:
    stem = re.sub(r"^ale/|-v\d+$", "", game.strip().lower())
    return re.sub(r"[\s_-]", "", stem)
