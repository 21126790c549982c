"""The replay: what arrived, kept in RAM and on disk, and served as batches of windows."""

from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.replay import Replay, ReplayOptions

__all__ = ["CorruptReplay", "Replay", "ReplayOptions"]
