"""Losses that make critics disagree at the states they are only bootstrapped from.

Letters: N states, F feature width, V critics.
"""

from typing import Protocol

import torch
from torch import Tensor

from worldmodels.values.configs import ValuesConfig

SMALLEST = 1e-2
"""Added to a gradient's norm: the direction of a gradient that vanishes is noise."""


class Members(Protocol):
    """Critics one by one."""

    config: ValuesConfig

    def soft_members(self, feature: Tensor, span: Tensor, twice: bool = False) -> Tensor:
        """feature [..., F] -> [V, ...]; with `twice`, it can be differentiated twice."""
        ...


def diversity(critics: Members, feature: Tensor, span: Tensor) -> Tensor:
    """`config.diversity` at feature [N, F] (detached) -> [N]; V is at least 2."""
    if critics.config.diversity == "gradient":
        return cosine(critics, feature, span)
    return -spread(critics.soft_members(feature, span))


def cosine(critics: Members, feature: Tensor, span: Tensor) -> Tensor:
    """Mean cosine between the members' gradients by the state, 1 / (V (V-1)) sum_{i != j} -> [N].

    Of EDAC (An et al. 2021, arXiv 2110.01548), which differentiates by the action; a state-value
    critic has none.
    """
    point = feature.detach().requires_grad_()
    with torch.enable_grad():
        values = critics.soft_members(point, span, twice=True)  # [V, N]
        slopes = [torch.autograd.grad(v.sum(), point, create_graph=True)[0] for v in values]
        slope = torch.stack(slopes)  # [V, N, F]
        direction = slope / (slope.norm(dim=-1, keepdim=True) + SMALLEST)
    count = values.shape[0]
    total = direction.sum(0).square().sum(-1) - direction.square().sum(-1).sum(0)
    return total / (count * (count - 1))


def spread(members: Tensor) -> Tensor:
    """log of the members' deviation, at most 0: members [V, N] -> [N].

    Once values differ by a span of returns, more is no use.
    """
    return (members.var(0, correction=0) + 1e-8).sqrt().log().clamp(max=0.0)
