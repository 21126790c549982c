"""The replay: what arrived, kept in RAM and on disk, and served as batches of windows."""

from worldmodels.replay.checkpoint import Restored
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.keeper import Recovered
from worldmodels.replay.options import ReplayOptions
from worldmodels.replay.replay import Replay

__all__ = ["CorruptReplay", "Recovered", "Replay", "ReplayOptions", "Restored"]
