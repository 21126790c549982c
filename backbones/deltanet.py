"""The Gated DeltaNet layer: arXiv 2412.06464, with negative eigenvalues as in arXiv 2411.12537.

Per head, with unit keys k and queries q, a decay exp(g) and a write strength beta:

    S' = exp(g_t) S_{t-1};   u_t = beta_t (v_t - S'^T k_t);   S_t = S' + k_t u_t^T
    y_t = S_t^T q_t / sqrt(K)

Where beta is 1, the value that the key held is replaced; the direction k of the state is multiplied
by exp(g) (1 - beta), which beta above 1 makes negative.

`sequence` finds the u of a chunk of rows by one triangular solve. Letters: B sequences, T rows, M
requested states, D width, H heads, K key width, V value width, W width of the convolution, J
chunks of Q rows.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State
from worldmodels.backbones.configs import DeltaNetOptions
from worldmodels.backbones.layers import check_sizes
from worldmodels.backbones.mamba import initial_delta_bias
from worldmodels.backbones.mamba3 import segmented_cumsum
from worldmodels.kernels.causal_conv import causal_conv, windows
from worldmodels.kernels.sequence import no_autocast, segments, wide_dtype

NORM_EPS = 1e-5
UNIT_EPS = 1e-6
"""Added to the squared length of a key or query before it is divided out."""
EMITTED_ROWS = 128
"""States that are emitted as one batch: bounds the memory for what they are made of."""


class Tokens(NamedTuple):
    """What depends on a row's input alone, [B, H, T, ...]."""

    query: Tensor
    """Unit vectors over sqrt(K) [K]."""
    key: Tensor
    """Unit vectors [K]."""
    value: Tensor
    """[V]."""
    log_decay: Tensor
    """g, at most zero."""
    strength: Tensor
    """beta."""


class Chunks(NamedTuple):
    """What the states inside of chunks are made of."""

    states: Tensor
    """S before each chunk [B, J, H, K, V]."""
    key: Tensor
    """[B, J, H, Q, K]."""
    written: Tensor
    """u [B, J, H, Q, V]."""
    decay: Tensor
    """[B, J, H, Q, Q]: what is left at row t of what row s wrote; zero across a reset."""
    kept: Tensor
    """[B, J, H, Q]: what is left at row t of S before the chunk; zero after a reset."""


class GatedDeltaNet(Backbone):
    """[..., D] -> [..., D]; the state is the convolution's last W - 1 inputs and S."""

    Config = DeltaNetOptions

    def __init__(self, config: DeltaNetOptions, input_size: int):
        heads, key = config.heads, config.key
        check_sizes(config, heads=1, key=1, chunk=1, conv=2)
        if input_size % heads:
            raise ValueError(f"width {input_size} is no multiple of heads {heads}")
        if not 0 < config.beta <= 2:
            raise ValueError(f"beta is above 0 and at most 2, not {config.beta}: states would grow")
        super().__init__(config, input_size, input_size)
        self.inputs = (heads * key, heads * key, input_size)
        self.parts = (sum(self.inputs), input_size, heads, heads)
        self.in_proj = nn.Linear(input_size, sum(self.parts), bias=False)
        channels = self.parts[0]
        self.conv1d = nn.Conv1d(channels, channels, config.conv, groups=channels, bias=False)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1e-4, 16).log())
        self.dt_bias = nn.Parameter(initial_delta_bias(heads))
        self.norm = nn.RMSNorm(input_size // heads, NORM_EPS)
        self.out_proj = nn.Linear(input_size, input_size, bias=False)

    def state_spec(self) -> dict[str, LeafSpec]:
        """`conv` [W - 1, H (2 K + V)] raw inputs and `s` [H, K, V]."""
        config = self.config
        return {
            "conv": LeafSpec((config.conv - 1, self.parts[0])),
            "s": LeafSpec((config.heads, config.key, self.input_size // config.heads)),
        }

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [B, D] -> mixed [B, D], state; the recurrence itself."""
        state = self.apply_reset(state, reset)
        raw, gate, delta, strength = self.in_proj(u).unsqueeze(1).split(self.parts, -1)
        conved, window = self._conv(raw, state["conv"], None)
        with no_autocast(u):
            row = Tokens(*(x.squeeze(2) for x in self._tokens(conved, delta, strength)))
            kept = row.log_decay.exp().unsqueeze(-1)
            held, read = (torch.stack([row.key, row.query], 2) @ state["s"]).unbind(2)
            written = row.strength.unsqueeze(-1) * (row.value - kept * held)
            outer = row.key.unsqueeze(-1), written.unsqueeze(-2)
            s = torch.addcmul(kept.unsqueeze(-1) * state["s"], *outer)
            y = kept * read + (row.query * row.key).sum(-1, keepdim=True) * written
            y = self._gated(y.unsqueeze(2), gate).squeeze(1)
        return self.out_proj(y), State({"conv": window, "s": s})

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; one triangular solve for every `chunk` rows."""
        raw, gate, delta, strength = self.in_proj(u).split(self.parts, -1)
        conved, window = self._conv(raw, state["conv"], reset)
        with no_autocast(u):
            row = self._tokens(conved, delta, strength)
            y, s, chunks = delta_rule(row, state["s"], reset, self.config.chunk)
            y = self._gated(y, gate)
        last = State({"conv": window, "s": s})
        h = self.out_proj(y)
        if emit is None:
            return h, last, None
        cut = windows(raw, self.config.conv, reset=reset, initial_window=state["conv"], emit=emit)
        with no_autocast(u):
            return h, last, State({"conv": cut, "s": emitted_states(chunks, emit, u.shape[1])})

    def _conv(self, raw: Tensor, window: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """raw [B, T, H (2 K + V)] -> the same, convolved, and the last window."""
        weight = self.conv1d.weight.squeeze(1)
        return causal_conv(raw, weight, None, "silu", reset=reset, initial_window=window)

    def _tokens(self, conved: Tensor, delta: Tensor, strength: Tensor) -> Tokens:
        """conved [B, T, H (2 K + V)], delta and strength [B, T, H] -> what the recurrence reads."""
        wide, heads = wide_dtype(conved), (self.config.heads, -1)
        query, key, value = (
            part.unflatten(-1, heads).transpose(1, 2)
            for part in conved.to(wide).split(self.inputs, -1)
        )
        delta = F.softplus(delta.to(wide) + self.dt_bias)
        return Tokens(
            query=unit(query) * self.config.key**-0.5,
            key=unit(key),
            value=value,
            log_decay=-(delta * self.A_log.exp()).transpose(1, 2),
            strength=self.config.beta * torch.sigmoid(strength.to(wide)).transpose(1, 2),
        )

    def _gated(self, y: Tensor, gate: Tensor) -> Tensor:
        """y [B, H, T, V], gate [B, T, D] -> norm(y) * silu(gate) [B, T, D]."""
        y = self.norm(y.transpose(1, 2)).flatten(2)
        return y * F.silu(gate.to(y.dtype))


def unit(x: Tensor) -> Tensor:
    """x [..., K] over its length."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + UNIT_EPS)


def delta_rule(
    row: Tokens, state: Tensor, reset: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Chunks]:
    """Tokens of T rows, state [B, H, K, V], reset [B, T] -> y [B, H, T, V], last state, chunks."""
    length = reset.shape[1]
    chunk = min(chunk, length)
    query, key, value, log_decay, strength = (_cut(x, chunk) for x in row)
    decay, kept = _decays(log_decay, reset, chunk)

    weighted = strength.unsqueeze(-1) * key  # rows of zeros where a chunk is filled up
    lower = (weighted @ key.mT) * decay  # its diagonal and what is above do not count
    value = strength.unsqueeze(-1) * value
    weighted = weighted * kept.unsqueeze(-1)
    into = (decay[..., -1, :, None] * key).mT
    states, written = [], []
    for j in range(key.shape[1]):
        states.append(state)
        u = torch.linalg.solve_triangular(
            lower[:, j], value[:, j] - weighted[:, j] @ state, upper=False, unitriangular=True
        )
        written.append(u)
        state = kept[:, j, :, -1, None, None] * state + into[:, j] @ u
    chunks = Chunks(torch.stack(states, 1), key, torch.stack(written, 1), decay, kept)
    y = ((query @ key.mT) * decay) @ chunks.written
    y = y + kept.unsqueeze(-1) * (query @ chunks.states)
    return y.transpose(1, 2).flatten(2, 3)[:, :, :length], state, chunks


def _cut(x: Tensor, chunk: int) -> Tensor:
    """x [B, H, T, ...] -> [B, J, H, Q, ...]; rows of zeros, which do nothing, fill the last."""
    x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, -x.shape[2] % chunk))
    return x.unflatten(2, (-1, chunk)).transpose(1, 2)


def _decays(log_decay: Tensor, reset: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """log_decay [B, J, H, Q] and reset [B, T] -> `decay` and `kept` of `Chunks`."""
    reset = F.pad(reset, (0, -reset.shape[1] % chunk)).unflatten(1, (-1, chunk))  # [B, J, Q]
    segment = segments(reset.flatten(0, 1)).view_as(reset)
    summed = log_decay.transpose(2, 3).flatten(0, 1)  # [B J, Q, H]
    summed = segmented_cumsum(summed, reset.flatten(0, 1))
    summed = summed.unflatten(0, reset.shape[:2]).transpose(2, 3)  # [B, J, H, Q]
    seen = (segment.unsqueeze(-1) == segment.unsqueeze(-2)).tril().unsqueeze(2)
    difference = summed.unsqueeze(-1) - summed.unsqueeze(-2)
    # Masked before exp: above the diagonal it would overflow, and spoil gradients.
    decay = difference.masked_fill(~seen, -torch.inf).exp()
    return decay, summed.exp().masked_fill((segment > 0).unsqueeze(2), 0)


def emitted_states(chunks: Chunks, emit: Emit, length: int) -> Tensor:
    """States [M, H, K, V] after the rows "all" of `length`, or (b, t) [M, 2].

    In groups, which keep only what they are made of for the backward pass.
    """
    if isinstance(emit, Tensor):
        sequence, time = emit.unbind(1)
    else:
        flat = torch.arange(chunks.states.shape[0] * length, device=chunks.states.device)
        sequence, time = flat // length, flat % length
    size = chunks.kept.shape[-1]
    chunk = sequence * chunks.states.shape[1] + time // size
    groups = zip(chunk.split(EMITTED_ROWS), (time % size).split(EMITTED_ROWS), strict=True)
    return torch.cat(
        [
            checkpoint(_states_at, chunks, *group, use_reentrant=False, preserve_rng_state=False)
            for group in groups
        ]
    )


def _states_at(chunks: Chunks, chunk: Tensor, row: Tensor) -> Tensor:
    """States [m, H, K, V] after the rows `row` [m] of the chunks `chunk` [m] out of B * J."""
    states, key, written, decay, kept = (x.flatten(0, 1) for x in chunks)
    place = chunk * kept.shape[-1] + row
    decay = decay.transpose(1, 2).flatten(0, 1).index_select(0, place)  # [m, H, Q]
    kept = kept.transpose(1, 2).flatten(0, 1).index_select(0, place)  # [m, H]
    key = key.index_select(0, chunk) * decay.unsqueeze(-1)
    states = kept[..., None, None] * states.index_select(0, chunk)
    return states + key.mT @ written.index_select(0, chunk)
