"""Stacks: pre-norm residual blocks around mixing layers that are backbones themselves.

    x = embed(u);  x += mix(norm(x));  x += mlp(norm(x)) (where there is one);  h = norm(x)

The residual stream is float32, whatever the products between compute in. Letters: B sequences,
T rows, M requested states, D width of the stream and of h.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.backbones.attention import Attention
from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State
from worldmodels.backbones.configs import (
    DeltaNetConfig,
    GRUConfig,
    HybridConfig,
    Mamba2Config,
    Mamba3Config,
    MambaConfig,
    StackOptions,
    TransformerConfig,
)
from worldmodels.backbones.deltanet import GatedDeltaNet
from worldmodels.backbones.gru import GRU
from worldmodels.backbones.layers import Linear, check_sizes
from worldmodels.backbones.mamba import Mamba
from worldmodels.backbones.mamba2 import Mamba2
from worldmodels.backbones.mamba3 import Mamba3

NORM_EPS = 1e-5

MIXERS: dict[str, Callable[[Any, int], Backbone]] = {
    "attention": Attention,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mamba3": Mamba3,
    "deltanet": GatedDeltaNet,
    "gru": lambda options, width: GRU(GRUConfig(deter=width), width),
}
"""Kind of block -> its mixing layer, from (options, D); it gives as many features as it reads."""


class Stack(Backbone):
    """Any list of blocks; the state of block i's layer has the leaves `i.<leaf>`."""

    def __init__(self, config: StackOptions, input_size: int):
        check_sizes(config, width=1, mlp=0)
        super().__init__(config, input_size, config.width)
        blocks = config.blocks()
        if not blocks:
            raise ValueError("a stack has at least one block")
        for kind, _ in blocks:
            if kind not in MIXERS:
                raise ValueError(f"no block is called '{kind}'; there are {', '.join(MIXERS)}")
        width, inner = config.width, round(config.mlp * config.width)
        self.embed = Linear(input_size, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width, NORM_EPS) for _ in blocks)
        self.mixers = nn.ModuleList(MIXERS[kind](options, width) for kind, options in blocks)
        self.mlps = nn.ModuleList(_mlp(width, inner) for _ in blocks if inner)
        self.norm = nn.RMSNorm(width, NORM_EPS)

    def state_spec(self) -> dict[str, LeafSpec]:
        """The leaves of every layer."""
        return {
            f"{i}.{name}": leaf
            for i, mixer in enumerate(self._mixers())
            for name, leaf in mixer.state_spec().items()
        }

    def initial(self, batch_size: int) -> State:
        """Every layer's own."""
        return _join([mixer.initial(batch_size) for mixer in self._mixers()])

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [N, D_in] -> h [N, D], state."""
        h, after = self._run(u, lambda mixer, x, own: mixer.step(x, own, reset), state)
        return h, _join(after[0])

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; every layer sees the whole window at once."""
        h, (lasts, emitted) = self._run(
            u, lambda mixer, x, own: mixer.sequence(x, own, reset, emit), state
        )
        return h, _join(lasts), None if emit is None else _join(emitted)

    def _run(
        self, u: Tensor, mix: Callable[[Backbone, Tensor, State], tuple], state: State
    ) -> tuple[Tensor, list[tuple]]:
        """h, and by position what else `mix` (mixer, x, its state) gives for every block."""
        x = self.embed(u)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        results = []
        for i, mixer in enumerate(self._mixers()):
            own = State({name: state[f"{i}.{name}"] for name in mixer.state_spec()})
            mixed, *rest = mix(mixer, self.norms[i](x), own)
            x = x + mixed
            if len(self.mlps):
                x = x + self.mlps[i](x)
            results.append(rest)
        return self.norm(x), list(zip(*results, strict=True))

    def _mixers(self) -> list[Backbone]:
        return list(self.mixers)  # type: ignore


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.RMSNorm(width, NORM_EPS), Linear(width, inner), nn.SiLU(), Linear(inner, width)
    )


def _join(states: Iterable[State]) -> State:
    return State({f"{i}.{k}": leaf for i, own in enumerate(states) for k, leaf in own.items()})


class TransformerStack(Stack):
    """Sliding-window attention with rotary positions, and a feed-forward part."""

    Config = TransformerConfig


class MambaStack(Stack):
    """Mamba blocks, as in Drama (arXiv 2410.08893)."""

    Config = MambaConfig


class Mamba2Stack(Stack):
    """Mamba-2 blocks, as in Drama (arXiv 2410.08893)."""

    Config = Mamba2Config


class Mamba3Stack(Stack):
    """Mamba-3 blocks."""

    Config = Mamba3Config


class DeltaNetStack(Stack):
    """Gated DeltaNet blocks."""

    Config = DeltaNetConfig


class Hybrid(Stack):
    """Any list of blocks."""

    Config = HybridConfig
