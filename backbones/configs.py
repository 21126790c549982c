"""Options of every backbone; imports no torch, so that `--help` can list them quickly.

A stack's options are those of the stack and those of its one kind of block, side by side; the
hybrid's blocks keep theirs apart. `blocks()` lists what is stacked, as (kind, options).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar


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


@dataclass(frozen=True)
class AttentionOptions:
    """Causal attention over a sliding window."""

    heads: int = 4
    """Heads; each is width / heads wide, an even number."""
    window: int = 32
    """Rows that a row attends to, its own included, in learning and imagination alike."""


@dataclass(frozen=True)
class MambaOptions:
    """Mamba: a selective scan, S6."""

    state: int = 16
    """Numbers that every inner channel remembers (N)."""
    expand: int = 2
    """Inner width as a multiple of the width."""
    conv: int = 4
    """Rows that the short convolution sees."""


@dataclass(frozen=True)
class Mamba2Options:
    """Mamba-2: state-space duality, one decay per head."""

    heads: int = 4
    """Heads; each is expand * width / heads wide (P)."""
    state: int = 16
    """Numbers that every inner channel remembers (N)."""
    groups: int = 1
    """Groups of heads that share B and C."""
    expand: int = 2
    """Inner width as a multiple of the width."""
    conv: int = 4
    """Rows that the short convolution sees."""
    chunk: int = 64
    """Rows that are computed as one block of matrix products."""


@dataclass(frozen=True)
class Mamba3Options:
    """Mamba-3 (SISO): rotating states, trapezoidal input, no convolution."""

    heads: int = 4
    """Heads; each is expand * width / heads wide (P)."""
    state: int = 16
    """Numbers that every inner channel remembers (N)."""
    groups: int = 1
    """Groups of heads that share B and C."""
    expand: int = 2
    """Inner width as a multiple of the width."""
    rotated: float = 0.5
    """Share of the state that rotates."""
    chunk: int = 64
    """Rows that are computed as one block of matrix products."""


@dataclass(frozen=True)
class DeltaNetOptions:
    """Gated DeltaNet: a decaying memory in which a key's value is replaced."""

    heads: int = 4
    """Heads; each holds values width / heads wide."""
    key: int = 32
    """Width of a key."""
    beta: float = 2.0
    """Largest write strength; above 1 a state can change its sign (state tracking)."""
    conv: int = 4
    """Rows that the short convolution sees."""
    chunk: int = 32
    """Rows that are computed as one block of matrix products."""


@dataclass(frozen=True)
class StackOptions:
    """Pre-norm residual blocks around any mixing layers."""

    width: int = 256
    """Width of the residual stream and of h."""
    mlp: float = 0.0
    """Hidden width of the feed-forward part of a block, as a multiple of the width; 0 for none."""

    def blocks(self) -> list[tuple[str, Any]]:
        """(kind, options) of every block, from the input on."""
        raise NotImplementedError("abstract")


@dataclass(frozen=True)
class UniformOptions(StackOptions):
    """A stack of one kind of block, whose options stand beside its own."""

    kind: ClassVar[str]
    layers: int = 2
    """Blocks."""

    def blocks(self) -> list[tuple[str, Any]]:
        """The same block `layers` times."""
        return [(self.kind, self)] * self.layers


@dataclass(frozen=True)
class TransformerConfig(AttentionOptions, UniformOptions):
    """A Transformer with rotary positions and a sliding window."""

    kind: ClassVar[str] = "attention"
    name: str = "transformer"
    """Which backbone this is."""
    mlp: float = 2.0
    """Hidden width of the feed-forward part of a block, as a multiple of the width; 0 for none."""


@dataclass(frozen=True)
class MambaConfig(MambaOptions, UniformOptions):
    """Mamba blocks."""

    kind: ClassVar[str] = "mamba"
    name: str = "mamba"
    """Which backbone this is."""


@dataclass(frozen=True)
class Mamba2Config(Mamba2Options, UniformOptions):
    """Mamba-2 blocks."""

    kind: ClassVar[str] = "mamba2"
    name: str = "mamba2"
    """Which backbone this is."""


@dataclass(frozen=True)
class Mamba3Config(Mamba3Options, UniformOptions):
    """Mamba-3 blocks."""

    kind: ClassVar[str] = "mamba3"
    name: str = "mamba3"
    """Which backbone this is."""


@dataclass(frozen=True)
class DeltaNetConfig(DeltaNetOptions, UniformOptions):
    """Gated DeltaNet blocks."""

    kind: ClassVar[str] = "deltanet"
    name: str = "deltanet"
    """Which backbone this is."""


@dataclass(frozen=True)
class HybridConfig(StackOptions):
    """Any list of blocks."""

    name: str = "hybrid"
    """Which backbone this is."""
    stack: tuple[str, ...] = ("mamba2", "attention", "mamba2")
    """Kinds of block, from the input on: attention, mamba, mamba2, mamba3, deltanet, gru."""
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    """Every attention block."""
    mamba: MambaOptions = field(default_factory=MambaOptions)
    """Every Mamba block."""
    mamba2: Mamba2Options = field(default_factory=Mamba2Options)
    """Every Mamba-2 block."""
    mamba3: Mamba3Options = field(default_factory=Mamba3Options)
    """Every Mamba-3 block."""
    deltanet: DeltaNetOptions = field(default_factory=DeltaNetOptions)
    """Every Gated DeltaNet block."""

    def blocks(self) -> list[tuple[str, Any]]:
        """As listed; `gru` has no options."""
        return [(kind, getattr(self, kind, None)) for kind in self.stack]
