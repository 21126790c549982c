"""Backbones by name: built in, from the entry-point group `worldmodels.backbones`, or by path.

Imports no torch: a built-in backbone's options live in `worldmodels.backbones.configs`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from worldmodels.backbones.configs import GRUConfig, RSSMConfig
from worldmodels.errors import UserError, near

GROUP = "worldmodels.backbones"
_BUILTIN = {
    "rssm": ("worldmodels.backbones.rssm:RSSM", RSSMConfig),
    "gru": ("worldmodels.backbones.gru:GRU", GRUConfig),
}


def backbone_names() -> list[str]:
    """Built-in names, then those of installed plug-ins."""
    return [*_BUILTIN, *sorted(point.name for point in entry_points(group=GROUP))]


def backbone_config(name: str) -> Any:
    """The default options of the backbone `name` (a name, or `package.module:Class`)."""
    if name in _BUILTIN:
        return _BUILTIN[name][1]()
    config = backbone_class(name).Config()
    if config.name != name:
        raise UserError(
            f"backbone '{name}': its Config names it '{config.name}'; give the field `name` of "
            f"{type(config).__name__} the default '{name}'"
        )
    return config


def backbone_class(name: str) -> Any:
    """The class of the backbone `name`; imports torch."""
    if name in _BUILTIN:
        return load(_BUILTIN[name][0])
    if ":" in name:
        return load(name)
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise UserError(
        f"no backbone '{name}'{near(name, backbone_names())}; there are "
        f"{', '.join(backbone_names())}, or a path package.module:Class"
    )


def load(path: str) -> Any:
    """The object at `package.module:Name`."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a plug-in's module may fail in any way
        raise UserError(f"cannot load '{path}': {type(error).__name__}: {error}") from error
