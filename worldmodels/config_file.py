"""A configuration as plain data and as YAML; every option that a user gives is checked here.

Presets, config files, the command line's flags and `load_config` all go through `from_dict`, so
that an unknown key or a wrong type gets the same error everywhere. Imports neither torch nor numpy.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import yaml

from worldmodels.config import Config
from worldmodels.envs.registry import absent_config, config_for
from worldmodels.envs.values import read_value
from worldmodels.envs.yaml_file import read_yaml
from worldmodels.errors import UserError, near
from worldmodels.kinds import (
    actor_critic_config,
    kinds_with,
    optimizer_config,
    world_model_config,
)
from worldmodels.registry import backbone_config

DEFAULTS_OF: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "env": config_for,
        "backbone": backbone_config,
        "world_model": world_model_config,
        "actor_critic": actor_critic_config,
        "optimizer": optimizer_config,
    }
)
"""The blocks whose `name` picks the dataclass that the other options belong to."""


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain data; `from_dict` is the inverse."""
    return asdict(config)


def dump_config(config: Config) -> str:
    """YAML that holds every option; `load_config_file` reads it back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, width=100)


def load_config_file(path: Path) -> Config:
    """The configuration in a YAML file; what the file leaves out has its default."""
    return apply_file(path, read_options(path), Config())


def apply_file(path: Path, options: Mapping[str, Any], base: Config) -> Config:
    """`base` with the options that were read from `path`; errors name the file."""
    try:
        return from_dict(options, base)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_options(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked."""
    data = read_yaml(path, "config file")
    if not isinstance(data, dict):
        held = "nothing" if data is None else type(data).__name__
        raise UserError(f"{path} is no config file: it holds {held} instead of options by name")
    return data


def from_dict(
    options: Mapping[str, Any], base: Config, spell: Callable[[str], str] = str
) -> Config:
    """`base` with nested `options` over it; another `name` resets its block to the defaults.

    `spell` gives the name by which an error calls a dotted option.
    """
    offline = bool(options.get("offline"))
    for block in DEFAULTS_OF:
        given = options.get(block)
        if isinstance(given, Mapping) and "name" in given:
            name, defaults = given["name"], getattr(base, block)
            if name != defaults.name:
                read_value(name, str, spell(f"{block}.name"))
                defaults = defaults_for(block, given, offline)
            if defaults.name != getattr(base, block).name:
                base = replace(base, **{block: defaults})
            options = {**options, block: {**given, "name": defaults.name}}
    return _apply(options, base, "", base, spell)


def defaults_for(block: str, given: Mapping[str, Any], offline: bool) -> Any:
    """The default options of what a block names.

    With a data set to learn from, `offline`, an environment may be missing; its options are kept.
    """
    try:
        return DEFAULTS_OF[block](given["name"])
    except UserError:
        if block != "env" or not offline:
            raise
        return absent_config(given)


def option_names(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted name of every option of a configuration."""
    for name, value in vars(config).items():
        if is_dataclass(value):
            yield from option_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted option -> (old, new) where they differ; old is None for one that there was not."""
    old = {name: attrgetter(name)(before) for name in option_names(before)}
    new = {name: attrgetter(name)(after) for name in option_names(after)}
    return {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}


def _apply(
    options: Mapping[str, Any], into: Any, prefix: str, root: Config, spell: Callable[[str], str]
) -> Any:
    """The dataclass `into`, found at `prefix` of `root`, with `options` over it."""
    hints = get_type_hints(type(into))
    types = {field.name: hints[field.name] for field in fields(into)}  # no class variables
    changes = {}
    for key, value in options.items():
        path = f"{prefix}{key}"
        if key not in types:
            raise unknown_option(path, root, spell)
        current = getattr(into, key)
        if not is_dataclass(current):
            changes[key] = read_value(value, types[key], spell(path))
        elif isinstance(value, Mapping):
            changes[key] = _apply(value, current, f"{path}.", root, spell)
        else:
            first = next(option_names(current))
            raise UserError(
                f"{spell(path)} has options of its own, such as {spell(f'{path}.{first}')}; "
                f"give those instead of {value!r}"
            )
    return replace(into, **changes)


def unknown_option(path: str, config: Config, spell: Callable[[str], str] = str) -> UserError:
    """The error for an option that `config` does not have."""
    names = kinds_with(path)
    if names:
        block = path.partition(".")[0]
        return UserError(
            f"{spell(path)} is an option of {block}.name {' or '.join(names)}, not of "
            f"{getattr(config, block).name}; choose that, or leave it out"
        )
    return UserError(
        f"unknown option '{spell(path)}'{near(spell(path), map(spell, option_names(config)))}"
    )


_FIXED = ("env.", "backbone.", "seed", "num_envs", "replay.", "optimizer.name")
"""Options that shape what a checkpoint holds, beside those that the models name themselves."""


def check_resumable(saved: Config, config: Config) -> None:
    """Refuse to resume a run of `saved` as `config` where its checkpoints would not fit.

    A run that learned from a data set may go on without it: then its environment is stepped.
    """
    if config.offline not in ("", saved.offline):
        raise UserError(
            f"a resumed run keeps what it learns from, so --offline stays {saved.offline or 'none'}"
            "; leave it out, or start a new run for another data set"
        )
    fixed = _FIXED
    for block in ("world_model", "actor_critic"):
        fixed += tuple(f"{block}.{name}" for name in ("name", *getattr(saved, block).SHAPES))
    fixed += tuple(f"values.{name}" for name in saved.values.SHAPES)
    fixed_at_0 = [f"values.{name}" for name in saved.values.SHAPES_AT_0]
    for name, (old, new) in differences(saved, config).items():
        if name.startswith(fixed) or (name in fixed_at_0 and 0 in (old, new)):
            option = "--" + name.replace("_", "-")
            raise UserError(
                f"a resumed run keeps its environment, models, replay and seed, so {option} "
                f"stays {old}; leave it out, or start a new run for {new}"
            )
