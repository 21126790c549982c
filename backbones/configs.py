"""Options of every backbone; imports no torch, so that `--help` can list them quickly."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RSSMConfig:
    """DreamerV3's block-diagonal GRU."""

    name: str = "rssm"
    """Which backbone this is."""
    deter: int = 512
    """Width of the recurrent state h (a multiple of `blocks`)."""
    hidden: int = 64
    """Width of the normalised branch through which every block reads all of h."""
    blocks: int = 8
    """Independent blocks of the recurrent weights."""
    layers: int = 1
    """Block-diagonal hidden layers before the gates."""


@dataclass(frozen=True)
class GRUConfig:
    """A plain gated recurrent unit."""

    name: str = "gru"
    """Which backbone this is."""
    deter: int = 512
    """Width of the recurrent state h."""
