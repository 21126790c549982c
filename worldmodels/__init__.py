"""World models for reinforcement learning with swappable sequence backbones."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldmodels.agent import Agent
    from worldmodels.config import Config
    from worldmodels.presets import load_config
    from worldmodels.trainer import train

__version__ = "0.1.0"

_PUBLIC = {
    "Agent": "worldmodels.agent",
    "Config": "worldmodels.config",
    "train": "worldmodels.trainer",
    "load_config": "worldmodels.presets",
}
__all__ = ["Agent", "Config", "__version__", "load_config", "train"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'worldmodels' has no attribute '{name}'")


# In a source checkout backbones/, envs/ and kernels/ stand beside this folder.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "backbones").is_dir():
    __path__.append(str(_root))
