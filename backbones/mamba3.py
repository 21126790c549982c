"""The Mamba-3 layer with one input and one output per channel (SISO): arXiv 2603.15569.

Per head, with key k and query q turned by an angle that adds up over time, a decay alpha and two
weights, `own` for this row's input and `pending` for the one before:

    S_t = alpha_t S_{t-1} + alpha_t pending_t x_{t-1} k_{t-1}^T + own_t x_t k_t^T
    y_t = (S_t q_t + D x_t) * silu(z_t)

`sequence` lets each row store the next one's pending part in advance, which leaves Mamba-2's
operator, and takes it out again where it shows: from y_t and from emitted states.

Names, shapes and initial values of the parameters are those of mamba-ssm's `Mamba3`, but the pairs
that turn together are (i, i + N / 2), there (2 i, 2 i + 1), so trained weights do not carry over
as they are. Letters: B sequences, T rows, M
requested states, D width, I inner width, H heads, P head width, G groups, N state size, J pairs.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State, gather_rows
from worldmodels.backbones.configs import Mamba3Options
from worldmodels.backbones.layers import check_sizes
from worldmodels.backbones.mamba import initial_delta_bias
from worldmodels.kernels.sequence import no_autocast, segments, wide_dtype
from worldmodels.kernels.ssd import ssd

NORM_EPS = 1e-5
RATE_FLOOR = 1e-4
"""Smallest -A: the longest memory is 1 / (RATE_FLOOR * delta) rows."""


class Tokens(NamedTuple):
    """What depends on a row's input alone, [B, T, ...], or [B, ...] in `step`."""

    gate: Tensor
    """z [H, P]."""
    x: Tensor
    """Values [H, P]."""
    b: Tensor
    """Normalised keys, before bias and rotation [G, N]."""
    c: Tensor
    """Normalised queries, before bias and rotation [G, N]."""
    log_decay: Tensor
    """log alpha [H]."""
    own: Tensor
    """Weight of this row's input [H]."""
    pending: Tensor
    """Weight of the input before, before the decay [H]."""
    turn: Tensor
    """Rotation of this row in turns, within (-delta / 2, delta / 2) [H, J]."""


class Mamba3(Backbone):
    """[..., D] -> [..., D]; the state is S, the angle, and the last key and value."""

    Config = Mamba3Options

    def __init__(self, config: Mamba3Options, input_size: int):
        heads, groups, states = config.heads, config.groups, config.state
        check_sizes(config, heads=1, state=1, groups=1, expand=1, chunk=1)
        inner = config.expand * input_size
        if inner % heads:
            raise ValueError(f"inner width {inner} is no multiple of heads {heads}")
        if heads % groups:
            raise ValueError(f"heads {heads} is no multiple of groups {groups}")
        if not 0 <= config.rotated <= 1:
            raise ValueError(f"rotated is a share from 0 to 1, not {config.rotated}")
        super().__init__(config, input_size, input_size)
        self.pairs = int(config.rotated * states / 2)
        both = groups * states
        self.parts = (inner, inner, both, both, heads, heads, heads, self.pairs)
        self.in_proj = nn.Linear(input_size, sum(self.parts), bias=False)
        self.dt_bias = nn.Parameter(initial_delta_bias(heads))
        self.B_norm = nn.RMSNorm(states, NORM_EPS)
        self.C_norm = nn.RMSNorm(states, NORM_EPS)
        self.B_bias = nn.Parameter(torch.ones(heads, 1, states))
        self.C_bias = nn.Parameter(torch.ones(heads, 1, states))
        self.D = nn.Parameter(torch.ones(heads))
        self.out_proj = nn.Linear(inner, input_size, bias=False)

    def state_spec(self) -> dict[str, LeafSpec]:
        """`angle` [H, J] in turns, `ssm` [H, P, N], the last row's `b` [G, N] and `x` [H, P]."""
        config = self.config
        width = self.parts[0] // config.heads
        return {
            "angle": LeafSpec((config.heads, self.pairs)),
            "ssm": LeafSpec((config.heads, width, config.state)),
            "b": LeafSpec((config.groups, config.state)),
            "x": LeafSpec((config.heads, width)),
        }

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [B, D] -> mixed [B, D], state; the recurrence itself."""
        state = self.apply_reset(state, reset)
        projected = self.in_proj(u)
        with no_autocast(u):
            row = self._tokens(projected)
            angle = state["angle"] + row.turn
            angle = angle - angle.detach().round()
            before = self._turned(state["b"], self.B_bias, state["angle"])
            keys = torch.stack([before, self._turned(row.b, self.B_bias, angle)], 2)
            decay = row.log_decay.exp()
            weight = torch.stack([decay * row.pending, row.own], -1)
            values = torch.stack([state["x"], row.x], -1) * weight.unsqueeze(2)
            kept = decay[..., None, None] * state["ssm"]
            ssm = torch.baddbmm(kept.flatten(0, 1), values.flatten(0, 1), keys.flatten(0, 1))
            ssm = ssm.view_as(kept)
            y = (ssm @ self._turned(row.c, self.C_bias, angle).unsqueeze(-1)).squeeze(-1)
            y = (y + self.D.unsqueeze(-1) * row.x) * F.silu(row.gate)
        after = {"angle": angle, "ssm": ssm, "b": row.b, "x": row.x}
        return self.out_proj(y.flatten(1)), State(after)

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; blocks of `chunk` rows as matrix products."""
        projected = self.in_proj(u)
        with no_autocast(u):
            y, last, emitted = self._mix(self._tokens(projected), state, reset, emit)
        return self.out_proj(y), last, emitted

    def _tokens(self, projected: Tensor) -> Tokens:
        """[..., sum(parts)] -> what the recurrence reads, float32 at least."""
        projected = projected.to(wide_dtype(projected))
        z, x, b, c, delta, rate, share, turn = projected.split(self.parts, -1)
        delta = F.softplus(delta + self.dt_bias)
        own = delta * torch.sigmoid(share)
        groups, heads = (self.config.groups, -1), (self.config.heads, -1)
        return Tokens(
            gate=z.unflatten(-1, heads),
            x=x.unflatten(-1, heads),
            b=self.B_norm(b.unflatten(-1, groups)),
            c=self.C_norm(c.unflatten(-1, groups)),
            log_decay=-delta * heavy_tail(rate).clamp(min=RATE_FLOOR),
            own=own,
            pending=delta - own,
            turn=0.5 * torch.tanh(turn).unsqueeze(-2) * delta.unsqueeze(-1),
        )

    def _mix(
        self, row: Tokens, state: State, reset: Tensor, emit: Emit | None
    ) -> tuple[Tensor, State, State | None]:
        """Tokens -> y [B, T, I], last state, emitted state."""
        angle = add_turns(row.turn, state["angle"], reset)
        key, query = (
            self._turned(row.b, self.B_bias, angle),
            self._turned(row.c, self.C_bias, angle),
        )
        before = self._turned(state["b"], self.B_bias, state["angle"])
        # What row t stores for row t + 1, which has no use for it if it is reset.
        ahead = F.pad(row.pending[:, 1:].masked_fill(reset[:, 1:, None], 0), (0, 0, 0, 1))
        y, ssm, emitted = ssd(
            row.x,
            torch.ones_like(row.own),
            row.log_decay,
            key * (row.own + ahead).unsqueeze(-1),
            query,
            chunk=self.config.chunk,
            reset=reset,
            initial_state=_add_outer(state["ssm"], row.pending[:, 0], state["x"], before),
            emit=emit,
        )
        through = self.D - ahead * (query * key).sum(-1)
        y = (y + through.unsqueeze(-1) * row.x) * F.silu(row.gate)
        last = {"angle": angle[:, -1], "ssm": ssm, "b": row.b[:, -1], "x": row.x[:, -1]}
        if emit is None or emitted is None:
            return y.flatten(2), State(last), None
        angle, ahead, b, x, key = (gather_rows(v, emit) for v in (angle, ahead, row.b, row.x, key))
        ssm = _add_outer(emitted, -ahead, x, key)
        return y.flatten(2), State(last), State({"angle": angle, "ssm": ssm, "b": b, "x": x})

    def _turned(self, x: Tensor, bias: Tensor, turns: Tensor) -> Tensor:
        """x [..., G, N] -> [..., H, N]: biased per head, its first J pairs turned [..., H, J]."""
        x = x.repeat_interleave(self.config.heads // self.config.groups, -2) + bias.squeeze(1)
        half, pairs = x.shape[-1] // 2, self.pairs
        first, still, second, rest = x.split(
            [pairs, half - pairs, pairs, x.shape[-1] - half - pairs], -1
        )
        cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
        turned = first * cos - second * sin, first * sin + second * cos
        return torch.cat([turned[0], still, turned[1], rest], -1)


def heavy_tail(a: Tensor) -> Tensor:
    """1 + a where a >= 0, else 1 / (1 - a): positive, and slow to reach zero."""
    return torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp(max=0)))


def add_turns(turn: Tensor, start: Tensor, reset: Tensor) -> Tensor:
    """turn [B, T, H, J], start [B, H, J], reset [B, T] -> sums since the start or the last reset.

    All in turns, results in [-1/2, 1/2]: taking whole turns away is exact, so that long sums lose
    no digits and agree with those of single steps.
    """
    start = start.masked_fill(reset[:, 0, None, None], 0)
    turn = torch.cat([(turn[:, 0] + start).unsqueeze(1), turn[:, 1:]], 1)
    return segmented_cumsum(turn, reset, modulo_one=True)


def segmented_cumsum(x: Tensor, reset: Tensor, modulo_one: bool = False) -> Tensor:
    """x [B, T, ...], reset [B, T] -> sums over the rows since the last reset, that row included.

    In log2 T passes. Unlike the difference of two plain sums, these do not change by a bit with
    what came before the reset. `modulo_one` keeps only what differs from the nearest integer.
    """
    segment, length, distance = segments(reset), x.shape[1], 1
    while distance < length:
        cut = segment[:, distance:] != segment[:, :-distance]
        cut = cut.view(*cut.shape, *[1] * (x.ndim - 2))
        earlier = x[:, :-distance].masked_fill(cut, 0)
        x = torch.cat([x[:, :distance], x[:, distance:] + earlier], 1)
        x = x - x.detach().round() if modulo_one else x
        distance *= 2
    return x - x.detach().round() if modulo_one else x


def _add_outer(ssm: Tensor, weight: Tensor, x: Tensor, key: Tensor) -> Tensor:
    """ssm [M, H, P, N] + weight [M, H] * x [M, H, P] key [M, H, N]^T."""
    return torch.addcmul(ssm, (weight.unsqueeze(-1) * x).unsqueeze(-1), key.unsqueeze(-2))
