"""The tasks of a stream: as text that travels in a config, from a YAML file, and built in.

A task's text is the name of its environment, or, where it has a label or options, a YAML mapping on
one line: `{name: catch, label: flipped, view: flipped}`. Imports neither numpy nor an environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import yaml

from worldmodels.envs.errors import UserError, near
from worldmodels.envs.values import read_value
from worldmodels.envs.yaml_file import parse_yaml, read_yaml

_COINRUN = {
    "NB": "use_backgrounds: false",
    "RT": "restrict_themes: true",
    "GA": "use_generated_assets: true",
    "MA": "use_monochrome_assets: true",
    "CA": "center_agent: false",
}
"""What each variant of CoinRun adds to those before it (ARROW, arXiv 2603.11395)."""


_ATARI = ("MsPacman", "Boxing", "CrazyClimber", "Frostbite", "Seaquest", "Enduro")


def _coinrun(count: int) -> str:
    added = list(_COINRUN.items())[:count]
    label = "".join(f"+{short}" for short, _ in added) or "CoinRun"
    options = "".join(f", {option}" for _, option in added)
    return f"{{name: procgen:coinrun, label: {label}{options}}}"


ARROW_STEPS = 1_474_560
"""Agent steps per task of WMAR and ARROW: 90 epochs of 16,384."""

STREAMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # No view tells which controls hold, except by having been learnt: every action of a task
        # does something else in at least one other.
        "catch": {
            "tasks": (
                "{name: catch, label: upright}",
                "{name: catch, label: flipped, view: flipped, controls: reversed}",
                "{name: catch, label: inverted, inverted: true, controls: rotated}",
            ),
            "steps_per_task": 16_000,
        },
        # All six actions, so that one action means the same in every game.
        "minatar": {
            "tasks": tuple(
                f"{{name: minatar:{game}, label: {game}, full_action_space: true}}"
                for game in ("breakout", "asterix", "space_invaders")
            ),
            "steps_per_task": 100_000,
        },
        "coinrun": {
            "tasks": tuple(_coinrun(count) for count in range(len(_COINRUN) + 1)),
            "steps_per_task": ARROW_STEPS,
        },
        "atari": {
            "tasks": tuple(f"{{name: atari:{game}, label: {game}}}" for game in _ATARI),
            "steps_per_task": ARROW_STEPS,
        },
    }
)
"""What each built-in stream sets; coinrun and atari are ARROW's six tasks in its default order."""


@dataclass(frozen=True)
class Task:
    """One environment of a stream."""

    label: str
    """Its name in logs and options; the agent never sees it."""
    config: Any
    """Of the environment."""
    text: str
    """From which `read_task` reads it again; only options that were given."""


@cache
def read_task(text: str) -> Task:
    """The task that `text` describes."""
    if not text.startswith("{"):
        return task_of(text)
    try:
        return task_of(parse_yaml(text))
    except yaml.YAMLError as error:
        why = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"the task {text} is not a YAML mapping ({why}); correct it") from error


def task_of(entry: Any) -> Task:
    """A task from an environment's name, or from a mapping of name, label and options."""
    from worldmodels.envs.registry import config_for  # which imports the configs, streams included

    given = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        raise UserError(f"a task is an environment's name or a mapping with one, not {entry!r}")
    if "name" not in given:
        raise UserError(f"the task {dict(given)} has no name; add the name of its environment")
    config = config_for(read_value(given["name"], str, "a task's name"))
    if config.name.startswith("continual:"):
        raise UserError(f"the task {config.name} is a stream itself; name its tasks instead")
    label = read_value(given.get("label", config.name), str, f"the label of task {config.name}")
    options = {key: value for key, value in given.items() if key not in ("name", "label")}
    if config.name.startswith("atari:"):  # one action means the same in every game
        options = {"full_action_space": True, **options}
    text = {"name": config.name} | ({} if label == config.name else {"label": label}) | options
    if not label:
        raise UserError(f"the task {config.name} has an empty label; name it, or leave label out")
    return Task(label, _with_options(config, options, label), _one_line(text))


def _with_options(config: Any, options: Mapping[str, Any], label: str) -> Any:
    types = get_type_hints(type(config))
    known = [field.name for field in fields(config) if field.name != "name"]
    for key in options:
        if key not in known:
            there = f"; there are {', '.join(known)}" if known else "; it has none"
            raise UserError(
                f"task '{label}': {config.name} has no option '{key}'"
                f"{near(str(key), known) or there}"
            )
    read = {
        key: read_value(value, types[key], f"task '{label}': {key}")
        for key, value in options.items()
    }
    return replace(config, **read)


def tested_on(task: Task) -> dict[str, str]:
    """Label -> text of what an agent is tested on after the task: itself, and levels held out."""
    from worldmodels.envs.registry import evaluations

    found = {}
    for name, config in evaluations(task.config).items():
        changed = {
            field.name: getattr(config, field.name)
            for field in fields(config)
            if field.name != "name" and getattr(config, field.name) != field.default
        }
        text = _one_line({"name": config.name, "label": task.label} | changed)
        label = task.label + name.removeprefix(config.name)
        found[label] = task.text if config == task.config else text
    return found


def _one_line(task: Mapping[str, Any]) -> str:
    if len(task) == 1:
        return task["name"]
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in task.items()}
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6).strip()


def read_stream(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a stream's YAML file, `tasks` as text; errors name the file and the key.

    `kinds` are the options that such a file may set, with their types.
    """
    found = read_yaml(path, "task stream")
    if not isinstance(found, dict) or "tasks" not in found:
        raise UserError(f"{path} is no task stream: it has no list `tasks` of environments")
    if not isinstance(found["tasks"], list) or not found["tasks"]:
        raise UserError(f"{path}: tasks is a list of environments, not {found['tasks']!r}")
    options = {}
    for key, value in found.items():
        if key == "tasks":
            continue
        if key not in kinds:
            raise UserError(
                f"{path}: unknown key '{key}'{near(str(key), kinds)}; a stream has "
                f"tasks, {', '.join(kinds)}"
            )
        options[key] = read_value(value, kinds[key], f"{path}: {key}")
    try:
        return {"tasks": tuple(task_of(entry).text for entry in found["tasks"]), **options}
    except UserError as error:
        raise UserError(f"{path}: tasks: {error}") from error
