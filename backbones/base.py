"""The contract of every sequence backbone: `State`, `LeafSpec`, `Backbone`.

Letters (design section 8), batch first and time on axis 1 everywhere: B sequences, T rows of time,
M requested states, N rows of a state, D input width, F_h output width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LeafSpec:
    """Shape (without the batch axis) and dtype of one leaf of a state."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class State(Mapping[str, Tensor]):
    """A flat, immutable dict of tensors with the batch first in every leaf (design law 4)."""

    __slots__ = ("_leaves",)

    def __init__(self, leaves: Mapping[str, Tensor]):
        for name, leaf in leaves.items():
            if leaf.ndim == 0:
                raise ValueError(f"leaf '{name}' has no batch axis")
        sizes = {leaf.shape[0] for leaf in leaves.values()}
        if len(sizes) > 1:
            raise ValueError(
                f"leaves differ in batch size: { {k: v.shape for k, v in leaves.items()} }"
            )
        self._leaves = dict(leaves)

    def __getitem__(self, name: str) -> Tensor:
        return self._leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def batch_size(self) -> int:
        """N, the number of rows."""
        return next(iter(self._leaves.values())).shape[0]

    @property
    def nbytes_per_row(self) -> int:
        """Bytes of one row over all leaves."""
        return sum(leaf[:1].numel() * leaf.element_size() for leaf in self._leaves.values())

    def map(self, function) -> "State":
        """A state with `function` applied to every leaf."""
        return State({name: function(leaf) for name, leaf in self._leaves.items()})

    def index(self, rows: Tensor) -> "State":
        """Rows [M] (int64, repeats allowed) -> State of M rows."""
        return self.map(lambda leaf: leaf.index_select(0, rows))

    def expand(self, k: int) -> "State":
        """Each row k times in a row: N -> N * k."""
        return self.map(lambda leaf: leaf.repeat_interleave(k, 0))

    def where(self, mask: Tensor, other: "State") -> "State":
        """Rows of self where mask [N] (bool) is true, else of `other`."""
        return State(
            {
                name: torch.where(mask.view(-1, *[1] * (leaf.ndim - 1)), leaf, other[name])
                for name, leaf in self._leaves.items()
            }
        )

    @staticmethod
    def cat(states: "list[State]") -> "State":
        """States of N1, N2, ... rows as one of N1 + N2 + ... rows."""
        return State({name: torch.cat([state[name] for state in states]) for name in states[0]})

    def split(self, sizes: list[int]) -> "list[State]":
        """The inverse of `cat`."""
        parts = {name: leaf.split(sizes) for name, leaf in self._leaves.items()}
        return [State({name: part[i] for name, part in parts.items()}) for i in range(len(sizes))]

    def detach(self) -> "State":
        """Cut the gradient of every leaf."""
        return self.map(Tensor.detach)

    def clone(self) -> "State":
        """Copy every leaf."""
        return self.map(Tensor.clone)

    def to(self, device: torch.device | str) -> "State":
        """Move every leaf."""
        return self.map(lambda leaf: leaf.to(device))

    def save(self) -> dict[str, Tensor]:
        """Plain dict for a checkpoint."""
        return dict(self._leaves)

    @staticmethod
    def load(leaves: Mapping[str, Tensor], spec: Mapping[str, LeafSpec]) -> "State":
        """Inverse of `save`; raises ValueError where a name, shape or dtype differs from `spec`."""
        found = {name: LeafSpec(tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in leaves.items()}
        if found != dict(spec):
            raise ValueError(f"a saved state does not fit: has {found}, needs {dict(spec)}")
        return State(leaves)


Emit = Literal["all"] | Tensor
"""Which states are wanted: all, in the order b * T + t, or those at pairs (b, t) [M, 2]."""


@dataclass(frozen=True)
class Stratified:
    """The same number of requested states after every row of time, so that shapes are static."""

    rows: Tensor
    """int64 [T, m]: which of the B sequences, for every t."""

    @classmethod
    def none(cls, length: int, device: torch.device) -> Self:
        """No state at all of `length` rows."""
        return cls(torch.zeros(length, 0, dtype=torch.int64, device=device))

    @property
    def index(self) -> Tensor:
        """The pairs (b, t) [T * m, 2] in the order of time."""
        time = torch.arange(len(self.rows), device=self.rows.device).unsqueeze(1)
        return torch.stack([self.rows, time.expand_as(self.rows)], -1).flatten(0, 1)


class Backbone(nn.Module):
    """A causal map from inputs u_1..u_T to features h_1..h_T with a state that can be carried.

    A subclass needs `Config`, `state_spec` and one of `step` and `sequence`: without `sequence`, it
    loops over `step`; without `step`, that is a sequence of one row. Where both are written, design
    law 5 holds: `sequence` equals T calls of `step`.
    """

    Config: ClassVar[type]
    """The frozen, torch-free dataclass of this backbone's options."""
    output_leaf: ClassVar[str | None] = None
    """Name of the state leaf that is h itself, if there is one: it is then stored only once."""

    def __init__(self, config: Any, input_size: int, output_size: int):
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.output_size = output_size

    def state_spec(self) -> dict[str, LeafSpec]:
        """Name -> shape without batch, dtype, of every leaf of the state."""
        raise NotImplementedError("abstract")

    def initial(self, batch_size: int) -> State:
        """The state before the first input: zeros, the same in every row."""
        device = next(self.parameters()).device
        return State(
            {
                name: torch.zeros(batch_size, *leaf.shape, dtype=leaf.dtype, device=device)
                for name, leaf in self.state_spec().items()
            }
        )

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [B, D], state of B rows, reset [B] bool or None -> h [B, F_h], next state.

        A row whose reset is set starts from `initial` before u is consumed.
        """
        if type(self).sequence is Backbone.sequence:
            raise NotImplementedError(f"{type(self).__name__} has neither `step` nor `sequence`")
        reset = u.new_zeros(u.shape[0], dtype=torch.bool) if reset is None else reset
        h, state, _ = self.sequence(u.unsqueeze(1), state, reset.unsqueeze(1))
        return h.squeeze(1), state

    def apply_reset(self, state: State, reset: Tensor | None) -> State:
        """`state` with the rows of `reset` [B] replaced by `initial`."""
        if reset is None:
            return state
        return self.initial(state.batch_size).where(reset, state)

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """u [B, T, D], state of B rows, reset [B, T] bool -> h [B, T, F_h], last state, emitted.

        `emit`: None, "all" (B * T rows in the order b * T + t), or indices [M, 2] of (b, t).
        The state emitted at (b, t) is the state after step t; its gradient is attached.
        """
        outputs, states = [], []
        for t in range(u.shape[1]):
            h, state = self.step(u[:, t], state, reset[:, t])
            outputs.append(h)
            states.append(state)
        return torch.stack(outputs, 1), state, emit_states(states, emit)


def emit_states(states: list[State], emit: Emit | Stratified | None) -> State | None:
    """The rows that `emit` asks for out of T states of B rows; `Stratified` copies no others."""
    if emit is None:
        return None
    if isinstance(emit, Stratified):
        rows = zip(states, emit.rows, strict=True)
        return State.cat([state.index(some) for state, some in rows])
    return State(
        {name: gather_rows(torch.stack([s[name] for s in states], 1), emit) for name in states[0]}
    )


def gather_rows(x: Tensor, emit: Emit | Stratified) -> Tensor:
    """x [B, T, ...] -> the rows [M, ...] that `emit` asks for."""
    if isinstance(emit, str):
        if emit != "all":
            raise ValueError(f"emit is None, 'all' or an index [M, 2], not {emit!r}")
        return x.flatten(0, 1)
    index = emit.index if isinstance(emit, Stratified) else emit
    return x[index[:, 0], index[:, 1]]
