"""VaGraM: a model's errors count by how much the critic minds them.

Source: Voelcker et al. 2022, Value Gradient weighted Model-Based Reinforcement Learning (arXiv
2204.01464). To first order an error e of the next state changes the value by grad V(s') . e, whose
square is at most F sum_d (dV/ds_d)^2 e_d^2: the paper's loss, with the slope taken at the data's s'
and cut at a quantile of its norms. Letters: K transitions, F numbers in a state.

Departures: a Gaussian's likelihood measures errors in deviations, so the slope is taken per
deviation of its number too and a change of units changes nothing; weights have mean 1, and a share
of them may stay plain.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodels.control.stacked import full
from worldmodels.kernels.sequence import no_autocast

LONGEST = 0.95
"""Quantile of the norms of slopes at which longer ones are cut."""


def value_weights(
    value: Callable[[Tensor], Tensor],
    state: Tensor,
    deviation: Tensor,
    counts: Tensor,
    share: float,
) -> Tensor:
    """state [K, F], deviation [F] of its numbers, counts bool [K] -> weights [K, F], detached.

    w = (1 - share) + share v / mean v with v_kd = g_kd^2 and g_k = deviation * grad V(s_k), cut to
    the 95 % quantile of the norms |g|; quantile and mean over the rows that count. All 1 where the
    critic is flat everywhere.
    """
    with torch.enable_grad():
        point = state.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value(point).sum(), point)
    slope = full(slope) * deviation
    norm = slope.norm(dim=-1)
    limit = norm.where(counts, torch.nan).nanquantile(LONGEST)
    cut = slope / torch.maximum(norm, limit).unsqueeze(1)  # norms of at most 1
    square = cut.nan_to_num().square()  # NaN is 0 / 0, a slope of 0, or no row that counts
    rows = counts.to(square.dtype) / counts.sum().clamp(min=1)
    with no_autocast(rows):
        mean = rows @ square.mean(1)
    relative = torch.where(mean > 0, square / mean, 1.0)
    return (1 - share) + share * relative


def has_slope(value: Callable[[Tensor], Tensor], size: int) -> bool:
    """Whether a critic of states of `size` numbers can be differentiated."""
    with torch.enable_grad():
        return value(torch.zeros(1, size, requires_grad=True)).requires_grad
