"""Roll a policy out in latent space from given starts (DreamerV3, arXiv 2301.04104).

Letters: M starts, L imagined steps, A action size, F feature width, R width of a reading.
"""

from typing import Protocol

import torch
from torch import Tensor

from worldmodels.objects import Carry, Latents, Rollout
from worldmodels.sockets import Prediction


class Imagines(Protocol):
    """The part of a world model that imagination needs."""

    def imagine_step(self, carry: Carry, action: Tensor) -> Carry:
        """action [M, A] chosen at `carry` -> the state it leads to."""
        ...

    feature_size: int

    def reading(self, carry: Carry) -> Tensor:
        """M model states -> what the policy reads, F wide, and what else `predict` does: [M, R]."""
        ...

    def predict(self, reading: Tensor) -> Prediction:
        """reading [..., R] -> reward and continuation."""
        ...


class Acts(Protocol):
    """The part of an actor-critic that imagination needs."""

    action_size: int

    def act(self, feature: Tensor) -> Tensor:
        """feature [M, F] -> sampled action [M, A]."""
        ...


@torch.no_grad()
def imagine(world_model: Imagines, policy: Acts, latents: Latents, length: int) -> Rollout:
    """Sampled actions, then the prior, `length` times; `predict` is asked once, over all states."""
    carry, size = latents.start, world_model.feature_size
    state = world_model.reading(carry)
    starts = state.shape[0]
    reading = state.new_empty(starts, length + 1, state.shape[1])  # [M, L+1, R]
    actions = state.new_empty(starts, length, policy.action_size)
    reading[:, 0] = state
    for i in range(length):
        action = policy.act(reading[:, i, :size])
        carry = world_model.imagine_step(carry, action)
        actions[:, i], reading[:, i + 1] = action, world_model.reading(carry)
    reward, cont = world_model.predict(reading)
    return Rollout(reading[..., :size], actions, reward, cont, latents.start_weight)
