"""Roll a policy out in latent space from given starts (DreamerV3, arXiv 2301.04104).

Letters: M starts, L imagined steps, F feature width.
"""

from typing import Protocol

import torch
from torch import Tensor

from worldmodels.objects import Carry, Latents, Rollout
from worldmodels.world_model import Prediction


class Imagines(Protocol):
    """The part of a world model that imagination needs."""

    def imagine_step(self, carry: Carry, action: Tensor) -> Carry:
        """action [M, A] chosen at `carry` -> the state it leads to."""
        ...

    def feature(self, carry: Carry) -> Tensor:
        """M model states -> what heads and policy read, [M, F]."""
        ...

    def predict(self, feature: Tensor) -> Prediction:
        """feature [..., F] -> reward and continuation."""
        ...


class Acts(Protocol):
    """The part of an actor-critic that imagination needs."""

    def act(self, feature: Tensor) -> Tensor:
        """feature [M, F] -> sampled action [M, A]."""
        ...


@torch.no_grad()
def imagine(world_model: Imagines, policy: Acts, latents: Latents, length: int) -> Rollout:
    """Sampled actions, then the prior, `length` times; the heads are read once, over all states."""
    carry, actions = latents.start, []
    state = world_model.feature(carry)
    feature = state.new_empty(state.shape[0], length + 1, state.shape[1])  # [M, L+1, F]
    feature[:, 0] = state
    for i in range(length):
        actions.append(policy.act(feature[:, i]))
        carry = world_model.imagine_step(carry, actions[-1])
        feature[:, i + 1] = world_model.feature(carry)
    reward, cont = world_model.predict(feature)
    return Rollout(feature, torch.stack(actions, 1), reward, cont, latents.start_weight)
