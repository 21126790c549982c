"""Presets: YAML files of named choices, stacked left to right, and the defaults that stack them.

A preset's options for a backbone stand under `backbones:` by the backbone's name; those of the
backbone that is chosen hold, the others do not. Of the blocks that a `name` chooses (environment,
backbone, world model, actor-critic, optimiser), the last layer that names one has its way, and a
named block counts only where its name is the one chosen; a preset's block without a name is the
default model's. Imports neither torch nor numpy, unless
the default presets depend on whether there is a GPU.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldmodels.config import Config
from worldmodels.config_file import (
    DEFAULTS_OF,
    apply_file,
    defaults_for,
    from_dict,
    read_options,
)
from worldmodels.envs.registry import config_for
from worldmodels.errors import UserError, near

FOLDER = Path(__file__).with_name("presets")


@dataclass(frozen=True)
class Chosen:
    """A configuration and where its values come from."""

    config: Config
    notes: tuple[str, ...]
    """One line per source, for the start of a run."""
    steps_are_set: bool = True
    """Whether a file sets the steps; if not, a stream does: a preset's are for one task."""

    def with_options(self, options: Mapping[str, Any], spell: Callable[[str], str] = str) -> Config:
        """The configuration with nested options over it, as `from_dict` reads them.

        A task stream that says how long it is sets the steps, unless something else did.
        """
        config = from_dict(options, self.config, spell)
        total = getattr(config.env, "total_steps", None)
        if total is None or self.steps_are_set or "steps" in options:
            return config
        return replace(config, steps=total)


def preset_names() -> list[str]:
    """Every preset, sizes in rising order."""
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    return sorted(names, key=lambda name: (name.startswith("size"), _numbers(name), name))


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)] if name.startswith("size") else []


def load_preset(name: str) -> dict[str, Any]:
    """The options of a preset, as its file holds them."""
    names = preset_names()
    if name not in names:
        advice = near(name, names) or f"; there are {', '.join(names)}"
        raise UserError(f"no preset '{name}'{advice}")
    return read_options(FOLDER / f"{name}.yaml")


def default_presets(env_name: str, on_gpu: bool) -> list[str]:
    """The presets of a run that names none."""
    if env_name.startswith("continual:"):
        return _stream_presets(env_name, on_gpu)
    if env_name == "catch":
        return ["demo"]
    if env_name.startswith("memory:"):
        return ["memory"]
    if env_name.startswith("reach:"):
        return ["reach"]
    if env_name.startswith("procgen:"):
        return ["dreamerv3", "size12m", "procgen"] if on_gpu else ["dreamerv3", "size1m"]
    if not _depends_on_device(env_name):
        return ["small"]
    if on_gpu:
        return ["dreamerv3", "size12m", "atari100k"]
    protocol = ["atari100k"] if env_name.startswith("atari100k:") else []
    return ["dreamerv3", "size1m", *protocol]


def _stream_presets(env_name: str, on_gpu: bool) -> list[str]:
    """Those of its first task, for method and sizes, then WMAR's replay and the stream's own."""
    names = default_presets(_first_task(env_name), on_gpu)
    own = config_for(env_name).name.replace(":", "-")
    protocols = {"atari100k", "procgen"}  # of a single game
    kept = [name for name in names if name not in protocols]
    return [*kept, "wmar", *([own] if own in preset_names() else [])]


def _first_task(env_name: str) -> str:
    """The environment whose models a stream needs; an ordinary one is its own."""
    if not env_name.startswith("continual:"):
        return env_name
    return config_for(env_name).parts[0].config.name


def load_config(
    env: str | None = None,
    presets: Sequence[str] | None = None,
    config_file: Path | str | None = None,
    backbone: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Config:
    """The configuration that the command line would build.

    `options` come last and are nested as in a config file, and so may be the backbone's:
    `load_config("catch", backbone={"name": "mamba2", "width": 64}, replay={"batch_size": 8})`.
    """
    if isinstance(backbone, Mapping):
        options["backbone"] = backbone
    name = backbone.get("name") if isinstance(backbone, Mapping) else backbone
    chosen = choose_config(
        env,
        presets,
        config_file,
        name,
        device=str(options.get("device", "auto")),
        offline=bool(options.get("offline")),
    )
    return chosen.with_options(options)


def choose_config(
    env: str | None = None,
    presets: Sequence[str] | None = None,
    config_file: Path | str | None = None,
    backbone: str | None = None,
    *,
    device: str = "auto",
    look_for_gpu: bool = True,
    offline: bool = False,
) -> Chosen:
    """Defaults, then presets (given ones, or those that suit environment and device), then a file.

    Without `look_for_gpu` no device is looked for, and `auto` counts as a CPU. `offline`: a data
    set will be named, so that the environment itself may be missing.
    """
    file = Path(config_file) if config_file else None
    from_file = read_options(file) if file else {}
    env_name = env or _named(from_file, "env") or "catch"
    noted = from_file.get("env", {}) if env_name == _named(from_file, "env") else {}
    offline = offline or bool(from_file.get("offline"))
    env_config = defaults_for("env", {**noted, "name": env_name}, offline)
    if presets is None:
        wanted = device if device != "auto" else str(from_file.get("device", "auto"))
        presets, note = _suitable_presets(env_name, wanted, look_for_gpu)
    else:
        note = f"presets {' '.join(presets) or 'none'}: as asked"
    notes, layers = [note], [load_preset(name) for name in presets]
    config = from_dict(_choices([*layers, from_file], backbone), Config(env=env_config))
    for name, layer in zip(presets, layers, strict=True):
        notes += _unsized(name, layer, config)
        own = _for_choice(_with_names(layer), config)
        config = apply_file(FOLDER / f"{name}.yaml", own, config)
    if file:
        config = apply_file(file, _for_choice(from_file, config), config)
        notes.append(f"config file {file}: {', '.join(from_file)}")
    chosen = Chosen(config, tuple(notes), "steps" in from_file)
    return replace(chosen, config=chosen.with_options({}))


def _suitable_presets(env_name: str, device: str, look_for_gpu: bool) -> tuple[list[str], str]:
    """The default presets and the line that says so."""
    situation, on_gpu = env_name, False
    if _depends_on_device(_first_task(env_name)):
        on_gpu = _is_gpu(device, look_for_gpu)
        situation += " on a GPU" if on_gpu else " on a CPU"
    presets = default_presets(env_name, on_gpu)
    return presets, f"presets {' '.join(presets)}: default for {situation}"


def _named(layer: Mapping[str, Any], block: str) -> str | None:
    """What a layer names for a block, such as the environment."""
    options = layer.get(block)
    name = options.get("name") if isinstance(options, Mapping) else None
    return name if isinstance(name, str) else None


def _choices(layers: Sequence[Mapping[str, Any]], backbone: str | None) -> dict[str, Any]:
    """The names of the blocks but the environment's: what the last layer says, or `backbone`."""
    layers = [*layers, {"backbone": {"name": backbone}}]
    named = {b: n for layer in layers for b in DEFAULTS_OF if (n := _named(layer, b))}
    return {block: {"name": name} for block, name in named.items() if block != "env"}


def _with_names(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A preset in which every block of a model says whose it is: where it does not, the default's.

    A user's file is not read so: what it says for another model is a mistake to be told.
    """
    named = {
        block: {"name": getattr(Config(), block).name, **layer[block]}
        for block in DEFAULTS_OF
        if block in layer and block not in ("env", "backbone")
    }
    return {**layer, **named}


def _for_choice(layer: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """A layer without what it says about other environments, backbones and models."""
    result = {key: value for key, value in layer.items() if key != "backbones"}
    for block, defaults_of in DEFAULTS_OF.items():
        name = _named(layer, block)
        chosen = getattr(config, block).name
        if name and name != chosen and defaults_of(name).name != chosen:
            del result[block]
    sized = getattr(config.world_model, "BACKBONE", True)
    widths = layer.get("backbones", {}).get(config.backbone.name, {}) if sized else {}
    return result | ({"backbone": widths} if widths else {})


def _unsized(name: str, layer: Mapping[str, Any], config: Config) -> list[str]:
    """A note where a preset sizes backbones, but not this one."""
    backbone = config.backbone.name
    sized = getattr(config.world_model, "BACKBONE", True)
    if not sized or "backbones" not in layer or backbone in layer["backbones"]:
        return []
    return [f"preset {name} has no options for backbone {backbone}, which keeps its defaults"]


def _depends_on_device(env_name: str) -> bool:
    """Whether a GPU gets other default presets."""
    return env_name.partition(":")[0] in ("atari", "atari100k", "procgen")


def _is_gpu(device: str, look: bool) -> bool:
    if device != "auto" or not look:
        return device.startswith("cuda")
    import torch  # takes seconds

    return torch.cuda.is_available()
