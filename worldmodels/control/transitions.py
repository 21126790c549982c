"""Transitions (s, a, r, s') out of replayed rows and out of rollouts.

Letters: K transitions, B sequences, T rows, M starts, L imagined steps, F feature width, A action
size.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from worldmodels.objects import Batch, Rollout


@dataclass(frozen=True)
class Transitions:
    """K transitions, detached."""

    state: Tensor
    """[K, F]."""
    action: Tensor
    """[K, A], chosen at `state`."""
    reward: Tensor
    """[K], received on arriving at `next_state`."""
    cont: Tensor
    """[K]: the discount, 0 where `next_state` is terminal."""
    next_state: Tensor
    """[K, F]."""
    weight: Tensor
    """[K]: 1, or 0 for what is no transition and must not count."""

    def pack(self) -> Tensor:
        """All but the weight, side by side: [K, 2 F + A + 2]."""
        numbers = torch.stack([self.reward, self.cont], 1)
        return torch.cat([self.state, self.action, numbers, self.next_state], 1)

    @staticmethod
    def unpack(rows: Tensor, weight: Tensor, feature: int) -> "Transitions":
        """Inverse of `pack`; `feature` is F."""
        actions = rows.shape[1] - 2 * feature - 2
        state, action, reward, cont, following = rows.split([feature, actions, 1, 1, feature], 1)
        return Transitions(state, action, reward.squeeze(1), cont.squeeze(1), following, weight)

    @staticmethod
    def cat(parts: "list[Transitions]") -> "Transitions":
        """One after the other."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Transitions)}
        return Transitions(**{name: torch.cat(column) for name, column in columns.items()})

    def first_valid(self, count: int) -> "Transitions":
        """`count` of them in their order, those with a weight first."""
        order = (self.weight == 0).int().argsort(stable=True)[:count]
        return Transitions(**{f.name: getattr(self, f.name)[order] for f in fields(self)})


def replayed(feature: Tensor, batch: Batch, discount: float) -> Transitions:
    """feature [B, T, F] of the batch's rows -> the K = B (T - 1) steps from row to row.

    None leads out of a last row or into a first one; a terminal row ends the value, a truncated
    one does not.
    """
    valid = ~batch.is_last[:, :-1] & ~batch.is_first[:, 1:]
    valid &= batch.obs_valid[:, :-1] & batch.obs_valid[:, 1:]
    rows = feature.detach()
    return Transitions(
        state=rows[:, :-1].flatten(0, 1),
        action=batch.prev_action[:, 1:].flatten(0, 1),
        reward=batch.reward[:, 1:].flatten(),
        cont=discount * (~batch.is_terminal[:, 1:]).float().flatten(),
        next_state=rows[:, 1:].flatten(0, 1),
        weight=valid.float().flatten(),
    )


def imagined(rollout: Rollout) -> Transitions:
    """The K = M L steps of a rollout; none follows on a terminal state, or on a dead start."""
    goes_on = (rollout.cont[:, :-1] > 0).float().cumprod(1)
    weight = (rollout.start_weight > 0).float().unsqueeze(1) * goes_on
    return Transitions(
        state=rollout.feature[:, :-1].flatten(0, 1),
        action=rollout.action.flatten(0, 1),
        reward=rollout.reward[:, 1:].flatten(),
        cont=rollout.cont[:, 1:].flatten(),
        next_state=rollout.feature[:, 1:].flatten(0, 1),
        weight=weight.flatten(),
    )
