"""Backbones by name: built in, from the entry-point group `worldmodels.backbones`, or by path.

Imports no torch: a built-in backbone's options live in `worldmodels.backbones.configs`.
"""

import sys
from dataclasses import fields, is_dataclass, replace
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from worldmodels.backbones.configs import (
    DeltaNetConfig,
    GRUConfig,
    HybridConfig,
    Mamba2Config,
    Mamba3Config,
    MambaConfig,
    RSSMConfig,
    TransformerConfig,
)
from worldmodels.errors import UserError, near

GROUP = "worldmodels.backbones"
BUILTIN = {
    "rssm": ("worldmodels.backbones.rssm:RSSM", RSSMConfig),
    "gru": ("worldmodels.backbones.gru:GRU", GRUConfig),
    "transformer": ("worldmodels.backbones.stack:TransformerStack", TransformerConfig),
    "mamba": ("worldmodels.backbones.stack:MambaStack", MambaConfig),
    "mamba2": ("worldmodels.backbones.stack:Mamba2Stack", Mamba2Config),
    "mamba3": ("worldmodels.backbones.stack:Mamba3Stack", Mamba3Config),
    "deltanet": ("worldmodels.backbones.stack:DeltaNetStack", DeltaNetConfig),
    "hybrid": ("worldmodels.backbones.stack:Hybrid", HybridConfig),
}
"""Name -> where its class is, and its options."""


def backbone_names() -> list[str]:
    """Built-in names, then those of installed plug-ins."""
    return [*BUILTIN, *sorted(point.name for point in entry_points(group=GROUP))]


def backbone_config(name: str) -> Any:
    """The default options of the backbone `name`; a file's path is made absolute in them.

    `name` is a name, `package.module:Class`, or `path/to/file.py:Class`.
    """
    if name in BUILTIN:
        return BUILTIN[name][1]()
    name = _absolute(name)
    kind = backbone_class(name)
    config = getattr(kind, "Config", None)
    if not (is_dataclass(config) and "name" in {field.name for field in fields(config)}):
        raise UserError(
            f"backbone '{name}' has no options: give the class a `Config`, a frozen dataclass with "
            f"a field `name` (docs/backbones.md)"
        )
    return replace(config(), name=name)  # type: ignore


def backbone_class(name: str) -> Any:
    """The class of the backbone `name`; imports torch."""
    if name in BUILTIN:
        return load(BUILTIN[name][0])
    if ":" in name:
        return load(_absolute(name))
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise UserError(
        f"no backbone '{name}'{near(name, backbone_names())}; there are "
        f"{', '.join(backbone_names())}, or a path file.py:Class or package.module:Class"
    )


def load(path: str) -> Any:
    """The object at `package.module:Name` or `file.py:Name`."""
    place, _, attribute = path.rpartition(":")
    try:
        module = _module_of(Path(place)) if place.endswith(".py") else import_module(place)
        return getattr(module, attribute)
    except Exception as error:  # a plug-in's module may fail in any way
        raise UserError(f"cannot load '{path}': {type(error).__name__}: {error}") from error


def _absolute(name: str) -> str:
    """A file's path in full, so that a run finds its backbone from any folder."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if place.endswith(".py") else name


@cache
def _module_of(file: Path) -> ModuleType:
    """The module in a file, run once."""
    name = f"worldmodels_file_{sha256(str(file).encode()).hexdigest()[:12]}_{file.stem}"
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # what stands beside it can be imported, as in a script
    sys.modules[name] = module  # dataclasses and type hints look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
