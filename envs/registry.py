"""From a name to its config, and from a config to its environment.

Three ways to plug in an environment of your own: `register`, an entry point in the group
`worldmodels.envs`, or its class by name, `my_package.my_module:MyEnv`. Standard library only; an
environment's own module is imported when it is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from worldmodels.envs import names
from worldmodels.envs.configs import (
    Atari100kConfig,
    AtariConfig,
    CatchConfig,
    GymConfig,
    MemoryCatchConfig,
    MemoryRepeatConfig,
    MemoryTMazeConfig,
    MinAtarConfig,
)
from worldmodels.envs.continual_config import ContinualConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.procgen_config import ProcgenConfig, install_command
from worldmodels.envs.reach_config import ReachConfig, ReachPlaneConfig

if TYPE_CHECKING:  # spec.py imports numpy, which `worldmodels --help` must not
    from worldmodels.envs.known import KnownDynamics
    from worldmodels.envs.spec import Env

ENTRY_POINTS = "worldmodels.envs"


@dataclass(frozen=True)
class Family:
    """All environments whose names share the part that `names.family` gives."""

    target: str
    """`module:Class` of the environment."""
    description: str
    config: type | None = None
    """Config class, where it is known without importing `target`."""
    library: str | None = None
    """Package that has to be installed."""
    install: str = 'pip install "worldmodels-rl"'
    """Command that installs `library`."""


_families = {
    "catch": Family(
        "worldmodels.envs.catch:Catch",
        "catch a falling ball on 10 x 5 cells; learns in minutes on a CPU",
        CatchConfig,
    ),
    "memory:catch": Family(
        "worldmodels.envs.memory:MemoryCatch",
        "catch a ball that is seen at first only",
        MemoryCatchConfig,
    ),
    "memory:tmaze": Family(
        "worldmodels.envs.memory:MemoryTMaze",
        "turn to the side that was shown L steps ago, for any L from 2",
        MemoryTMazeConfig,
    ),
    "memory:repeat": Family(
        "worldmodels.envs.memory:MemoryRepeat",
        "name the symbol that was shown K steps ago, for any K from 1",
        MemoryRepeatConfig,
    ),
    "minatar": Family(
        "worldmodels.envs.minatar:MinAtar",
        "five small Atari-like games on 10 x 10 boolean planes",
        MinAtarConfig,
        "minatar",
        'pip install "worldmodels-rl[minatar]"',
    ),
    "atari": Family(
        "worldmodels.envs.atari:Atari",
        "any Atari 2600 game, with every choice of the protocol an option",
        AtariConfig,
        "ale_py",
    ),
    "atari100k": Family(
        "worldmodels.envs.atari:Atari",
        "the 26 games of Atari100k, with the protocol fixed",
        Atari100kConfig,
        "ale_py",
    ),
    "procgen": Family(
        "worldmodels.envs.procgen:Procgen",
        "16 games whose levels are generated, with sets of levels to learn and hold out",
        ProcgenConfig,
        "procgen",
        install_command(),
    ),
    "gym": Family(
        "worldmodels.envs.gym:Gym",
        "any Gymnasium id with Discrete or Box actions",
        GymConfig,
        "gymnasium",
        'pip install "worldmodels-rl[gym]"',
    ),
    "reach": Family(
        "worldmodels.envs.reach:Reach",
        "a lattice whose worst cells lie where short rollouts just end; its dynamics are known",
        ReachConfig,
    ),
    "reach:plane": Family(
        "worldmodels.envs.reach:ReachPlane",
        "the same on a plane with continuous moves",
        ReachPlaneConfig,
    ),
    "continual": Family(
        "worldmodels.envs.continual:Continual",
        "tasks one after the other; continual:FILE.yaml lists your own",
        ContinualConfig,
    ),
}


def register(family: str, target: str, description: str = "registered by a plug-in") -> None:
    """Make `family` (and `family:ANYTHING`) the name of the environment class `module:Class`."""
    if family in _families and _families[family].target != target:
        raise UserError(
            f"the environment name '{family}' is taken by {_families[family].target}; "
            "register yours under another name"
        )
    _families[family] = Family(target, description)


def config_for(name: str) -> Any:
    """The default config of the environment `name`; a near name is an error that lists it."""
    family = _family_of(name)
    config_class = family.config or _load(family.target).Config
    return config_class(name=name)


class _Absent:
    """Marks the configs of environments that are not here."""

    name: str


def absent_config(options: Mapping[str, Any]) -> Any:
    """The config of an environment that is not to be found here: its `name`, and other options as
    they were noted. `make` says why there is none.
    """
    noted = {k: tuple(value) if isinstance(value, list) else value for k, value in options.items()}
    kinds = [(k, tuple[str, ...] if isinstance(v, tuple) else type(v)) for k, v in noted.items()]
    return make_dataclass("AbsentConfig", kinds, bases=(_Absent,), frozen=True)(**noted)


def make(config: Any, seed: int) -> "Env":
    """The environment of `config`, its random streams drawn from `seed`."""
    if isinstance(config, _Absent):
        config = config_for(config.name)  # says why there is none
    family = _family_of(config.name)
    if family.library and find_spec(family.library) is None:
        raise UserError(
            f"environment '{config.name}' needs the package {family.library}, which is not "
            f"installed; run: {family.install}"
        )
    return _load(family.target)(config, seed)


def known_dynamics(config: Any) -> "KnownDynamics":
    """The rules of the environment of `config`; UserError where it does not offer them."""
    env = make(config, 0)
    env.close()
    if not hasattr(env, "dynamics"):
        raise UserError(
            f"the dynamics of {config.name} are not known, so it cannot be imagined in them; use "
            "a learned world model, or an environment with `dynamics`, as the reach: family has"
        )
    return env.dynamics  # pyright: ignore


def task_names(config: Any) -> tuple[str, ...]:
    """Labels of the tasks by the index that a `Step` tells; an ordinary environment is one task."""
    return getattr(config, "task_names", (config.name,))


def task_at(config: Any, step: int) -> str:
    """The label of the task that is trained on in agent step `step`, from 0."""
    schedule = getattr(config, "task_at", None)
    return task_names(config)[0] if schedule is None else schedule(step)


def describe_schedule(config: Any, steps: int) -> list[str]:
    """What a stream of tasks does with a run of `steps`; nothing for an ordinary environment."""
    describe = getattr(config, "describe", None)
    return [] if describe is None else [describe(steps)]


def evaluations(config: Any) -> dict[str, Any]:
    """Label -> config of everything that a run on `config` is evaluated on: by default, itself."""
    return getattr(config, "evaluations", {config.name: config})


def lane_config(config: Any, index: int, count: int) -> Any:
    """The config of environment `index` of `count`; a stream's share its steps between them."""
    for_lane = getattr(config, "for_lane", None)
    return config if for_lane is None else for_lane(index, count)


def listing() -> list[dict[str, Any]]:
    """One entry per family: suite, names, installed, install, description."""
    known: dict[str, list[str]] = {}
    for name in names.known_names():
        known.setdefault(names.family(name), []).append(name)
    return [
        {
            "suite": suite,
            "names": known.get(suite, [suite]),
            "installed": family.library is None or find_spec(family.library) is not None,
            "install": family.install if family.library else "",
            "description": family.description,
        }
        for suite, family in _all_families().items()
    ]


def _all_families() -> dict[str, Family]:
    plugged = {
        entry.name: Family(entry.value, f"from the entry point of {_distribution(entry)}")
        for entry in entry_points(group=ENTRY_POINTS)
    }
    return {**plugged, **_families}  # a plug-in never replaces a built-in name


def _distribution(entry: Any) -> str:
    return entry.dist.name if entry.dist else entry.value


def _family_of(name: str) -> Family:
    prefix, _, rest = name.partition(":")
    family = _families.get(names.family(name)) or _all_families().get(prefix)
    if family is not None:
        return family
    if rest and _is_module(prefix):
        return Family(name, "named by its class")
    suites = [suite for suite in _all_families() if ":" not in suite]
    near = names.did_you_mean(name, [*names.known_names(), *suites])
    advice = near or "; `worldmodels envs` lists the names"
    if prefix == "memory" and not near:
        advice = f"; there are {', '.join(names.MEMORY_EXAMPLES)}, and other numbers"
    if "." in prefix:
        advice = (
            f": no module '{prefix}' can be imported; install it, or put its folder on PYTHONPATH"
        )
    raise UserError(f"unknown environment '{name}'{advice}")


def _is_module(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _load(target: str) -> Any:
    """The class at `module:Class`, checked for its `Config`."""
    module_name, _, class_name = target.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise UserError(
            f"importing {module_name} for an environment raised {type(error).__name__}: {error}; "
            "correct that module (--debug shows where)"
        ) from error
    env_class = getattr(module, class_name, None)
    if env_class is None:
        raise UserError(f"module '{module_name}' has no class '{class_name}'; check its spelling")
    config = getattr(env_class, "Config", None)
    if not is_dataclass(config) or fields(config)[0].name != "name":
        raise UserError(
            f"environment class {target} needs a nested or assigned `Config`, a frozen dataclass "
            "whose first field is `name`"
        )
    return env_class
