"""Causal attention over a sliding window, with rotary positions and a ring buffer as its state.

Source: attention, Vaswani et al. 2017 (arXiv 1706.03762); rotary positions, Su et al. 2021 (arXiv
2104.09864); normalised queries and keys, Henry et al. 2020 (arXiv 2010.04245), without which large
steps of the optimiser make attention too sharp to learn; state and segment mask after TWISTER
(arXiv 2503.04416). Letters: N rows of a state, B sequences, T rows of time, M requested states, D
width, H heads, P head width, C window, Q rows of a block of queries.

A row's position counts from its last reset. Row t attends to the rows t - C + 1 to t of its own
segment, in learning as in imagination, so that both compute the same function.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State, gather_rows
from worldmodels.backbones.configs import AttentionOptions
from worldmodels.backbones.layers import Linear

NORM_EPS = 1e-5
PERIOD = 1 << 16
"""Every rotation is whole after this many rows, so that positions wrap and never lose digits."""
BASE = 10_000.0
"""Slowest rotation over the fastest."""


class Attention(Backbone):
    """[..., D] -> [..., D]. The leaves `key` and `value` hold row p of a segment in slot p % C."""

    Config = AttentionOptions
    turns: Tensor
    """int64 [P / 2]: whole turns of every pair within `PERIOD` rows."""

    def __init__(self, config: AttentionOptions, input_size: int):
        heads, window = config.heads, config.window
        if heads < 1 or input_size % (2 * heads):
            raise ValueError(f"width {input_size} is no multiple of 2 * heads = {2 * heads}")
        if not 1 <= window <= PERIOD or PERIOD % window:
            raise ValueError(f"window is a power of two up to {PERIOD}, not {window}")
        super().__init__(config, input_size, input_size)
        self.heads, self.window, self.size = heads, window, input_size // heads
        self.qkv = Linear(input_size, 3 * input_size)
        self.query_norm = nn.RMSNorm(self.size, NORM_EPS)
        self.key_norm = nn.RMSNorm(self.size, NORM_EPS)
        self.out = Linear(input_size, input_size)
        pairs = torch.arange(self.size // 2, dtype=torch.float64)
        turns = (PERIOD / (2 * math.pi) * BASE ** (-2 * pairs / self.size)).round()
        self.register_buffer("turns", turns.long(), persistent=False)

    def state_spec(self) -> dict[str, LeafSpec]:
        """Rotated keys, values, and the position of the next row."""
        cache = LeafSpec((self.window, self.heads, self.size))
        return {"key": cache, "value": cache, "position": LeafSpec((), torch.int64)}

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [N, D] -> mixed [N, D], state; writes one slot and attends to all that are filled."""
        position, caches = state["position"], (state["key"], state["value"])
        slots = torch.arange(self.window, device=u.device)
        if reset is None:  # what lies beyond the position is zero already
            caches = [cache.clone() for cache in caches]
        else:
            position = position.masked_fill(reset, 0)
            empty = (slots >= position.unsqueeze(1))[..., None, None]  # [N, C, 1, 1]
            caches = [cache.masked_fill(empty, 0) for cache in caches]
        query, key, value = self._project(u.unsqueeze(1), position.unsqueeze(1))
        slot = torch.arange(u.shape[0], device=u.device), position % self.window
        keys, values = (
            cache.index_put_(slot, new[:, 0])
            for cache, new in zip(caches, (key, value), strict=True)
        )
        mixed = self._attend(query, keys, values, (slots <= position.unsqueeze(1)).unsqueeze(1))
        after = {"key": keys, "value": values, "position": _wrap(position + 1)}
        return self.out(mixed.squeeze(1)), State(after)

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; the incoming cache stands before the window as C further rows."""
        position = self._positions(state["position"], reset)
        query, key, value = self._project(u, position)
        # The cache in the order of time: column a holds the row a - C before the window.
        age = torch.arange(-self.window, 0, device=u.device)
        before = state["position"].unsqueeze(1) + age  # [B, C]
        slot = (before % self.window)[..., None, None].expand_as(state["key"])
        keys, values = (
            torch.cat([state[name].gather(1, slot), new], 1)
            for name, new in (("key", key), ("value", value))
        )
        # [B, C + T]: the incoming state is segment 0, an empty slot -1.
        segments = torch.cat([torch.where(before >= 0, 0, -1), reset.long().cumsum(1)], 1)

        mixed = self._banded(query, keys, values, segments)

        def after(rows: Emit) -> State:
            return self._states(keys, values, segments, position, rows)

        ends = torch.arange(u.shape[0], device=u.device).unsqueeze(1)
        ends = torch.cat([ends, torch.full_like(ends, u.shape[1] - 1)], 1)
        return self.out(mixed), after(ends), None if emit is None else after(emit)

    def _positions(self, first: Tensor, reset: Tensor) -> Tensor:
        """Position of the next row [B] and resets [B, T] -> the position of every row [B, T]."""
        time = torch.arange(reset.shape[1], device=reset.device)
        start = torch.where(reset, time, -1).cummax(1).values  # of the segment; -1 for the incoming
        return torch.where(start >= 0, time - start, _wrap(first.unsqueeze(1) + time))

    def _project(self, u: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u [B, T, D] and positions [B, T] -> query, key (both rotated), value [B, T, H, P]."""
        x = self.qkv(u)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        query, key, value = x.unflatten(-1, (3, self.heads, self.size)).unbind(-3)
        query, key = self.query_norm(query), self.key_norm(key)
        phase = (position.unsqueeze(-1) * self.turns) % PERIOD  # [B, T, P / 2]
        angle = (phase.to(x.dtype) * (2 * math.pi / PERIOD)).unsqueeze(-2)
        cos, sin = angle.cos(), angle.sin()
        return _rotate(query, cos, sin), _rotate(key, cos, sin), value

    def _banded(self, query: Tensor, keys: Tensor, values: Tensor, segments: Tensor) -> Tensor:
        """query [B, T, H, P], keys and values [B, C + T, H, P], segments [B, C + T] -> [B, T, D].

        In blocks of Q <= C queries, each against its own rows and the C before, so that time and
        memory grow with T.
        """
        window, (batch, length) = self.window, query.shape[:2]
        block = min(length, window)
        pad = -length % block
        query = F.pad(query, (0, 0, 0, 0, 0, pad)).unflatten(1, (-1, block))
        key, value = (
            F.pad(x, (0, 0, 0, 0, 0, pad)).unfold(1, window + block, block).movedim(-1, 2)
            for x in (keys, values)
        )
        seen = F.pad(segments, (0, pad)).unfold(1, window + block, block)  # [B, T / Q, C + Q]
        ahead = torch.arange(window + block, device=query.device)
        distance = window + ahead[:block].unsqueeze(1) - ahead  # [Q, C + Q]: rows between the two
        mask = (distance >= 0) & (distance < window)
        mask = mask & (seen[..., window:].unsqueeze(-1) == seen.unsqueeze(2))
        mixed = self._attend(
            query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask.flatten(0, 1)
        )
        return mixed.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """query [N, Q, H, P], key and value [N, S, H, P], mask [N, Q, S] -> [N, Q, D]."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1))
        return mixed.transpose(1, 2).flatten(2)

    def _states(
        self, keys: Tensor, values: Tensor, segments: Tensor, position: Tensor, emit: Emit
    ) -> State:
        """The states after the requested rows: their windows, every row of it in its slot."""
        batch, length = position.shape
        time = torch.arange(length, device=position.device).expand(batch, length)
        row = torch.arange(batch, device=position.device).unsqueeze(1).expand(batch, length)
        row, time, position = (gather_rows(x, emit) for x in (row, time, position))  # [M]
        slots = torch.arange(self.window, device=position.device)
        behind = (position.unsqueeze(1) - slots) % self.window  # [M, C]: rows before this one
        source = self.window + time.unsqueeze(1) - behind
        row = row.unsqueeze(1)
        own = segments[row, self.window + time.unsqueeze(1)]
        gone = (segments[row, source] != own)[..., None, None]
        key, value = (x[row, source].masked_fill(gone, 0) for x in (keys, values))
        return State({"key": key, "value": value, "position": _wrap(position + 1)})


def _wrap(position: Tensor) -> Tensor:
    """Keep positions below two periods; those above one still count as a full window."""
    return torch.where(position < PERIOD, position, PERIOD + position % PERIOD)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + P / 2) of x [..., P] by the angles whose cos and sin are given."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
