"""The objects that travel between the parts (design section 4): `Batch`, `Latents`, `Rollout`.

Letters: B sequences, T rows of time, M imagination starts, L imagined steps, A action size,
F feature width, S stochastic groups, C classes per group. Batch first, time on axis 1.
Not frozen, but never changed: Fabric rebuilds field by field what passes a wrapped `forward`.
"""

from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import torch
from torch import Tensor

from worldmodels.backbones.base import State

Carry: TypeAlias = State
"""Leaves `h [N, F_h]`, `z [N, S, C]` (exact one-hots) and `backbone.<leaf>`: the model state after
row t. Its backbone state has consumed z_{t-1} and a_{t-1}, but not z_t."""


@dataclass
class Batch:
    """Replay -> learner. Row t is what arrived at time t (design law 1)."""

    obs: dict[str, Tensor]
    """[B, T, ...] per key; images uint8 HWC, planes bool HWC, vectors float32."""
    prev_action: Tensor
    """float32 [B, T, A]: one-hot or in [-1, 1]; zeros where there is none."""
    reward: Tensor
    """float32 [B, T], received on arriving at the row."""
    is_first: Tensor
    """bool [B, T]."""
    is_last: Tensor
    """bool [B, T]: terminated or truncated."""
    is_terminal: Tensor
    """bool [B, T]: no value beyond this row."""
    obs_valid: Tensor
    """bool [B, T]: False where `obs` is not the true one; left out of its losses."""
    index: Tensor
    """int64 [B, T], global row ids, consecutive along T."""
    reset: Tensor
    """bool [B, T]: is_first, or t = 0 where there is no carry. Dynamics read this flag only."""
    carry: Carry | None = None
    """The model state before row 0, or None where every sequence starts from zeros."""
    burnin: int = 0
    """Leading rows that only warm the carry up and bear no loss."""

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                value = {key: leaf.to(device, non_blocking=True) for key, leaf in value.items()}
            elif isinstance(value, Tensor):
                value = value.to(device, non_blocking=True)
            elif isinstance(value, State):
                value = value.to(device)
            moved[field.name] = value
        return Batch(**moved)

    def rows(self, start: int, stop: int) -> "Batch":
        """The window of rows start..stop-1, with the same carry."""
        cut = {
            field.name: getattr(self, field.name)[:, start:stop]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        obs = {key: leaf[:, start:stop] for key, leaf in self.obs.items()}
        return replace(self, obs=obs, **cut)


@dataclass
class Latents:
    """World model -> imagination and actor-critic."""

    feature: Tensor
    """[B, T, F] = concat(h, flat z), attached to the world model's graph."""
    post_logits: Tensor
    """[B, T, S, C], raw (no unimix)."""
    prior_logits: Tensor
    """[B, T, S, C], raw (no unimix)."""
    start: Carry
    """M rows, detached: where imagination begins."""
    start_index: Tensor
    """int64 [M, 2]: (b, t) of each start; order b * T + t where all rows are starts."""
    start_weight: Tensor
    """float32 [M]: 0 for dead starts, which are never dropped (static shapes)."""
    last: Carry
    """B rows, detached: the model state after row T - 1."""


@dataclass
class Rollout:
    """Imagination -> actor-critic; everything detached."""

    feature: Tensor
    """[M, L+1, F]; index 0 is the start."""
    action: Tensor
    """[M, L, A], chosen at states 0..L-1."""
    reward: Tensor
    """[M, L+1], read at each state."""
    cont: Tensor
    """[M, L+1], discounted probability of going on, read at each state."""
    start_weight: Tensor
    """[M]."""
