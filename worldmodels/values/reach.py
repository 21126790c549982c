"""Diagnosis: do imagined returns bootstrap from states that no critic ever learns at?

A rollout's last state is a target of the critic and never its input; where it lies far from all
inputs, its value is extrapolated (the edge-of-reach problem, Sims et al. 2024, arXiv 2402.12527).
The measure is ours. Letters: M starts, L imagined steps, F feature width, V critics.
"""

import torch
from torch import Tensor

from worldmodels.values.nearest import nearest

INPUTS, ROLLOUTS = 512, 64
"""At most so many critic inputs are compared with the ends of so many rollouts."""


@torch.no_grad()
def reach_statistics(feature: Tensor, members: Tensor, value: Tensor) -> dict[str, Tensor]:
    """feature [M, L+1, F], members [V, M, L+1], value [M, L+1] -> 0-d tensors by name.

    `far`: share of last states whose nearest critic input in other rollouts is farther than 95 %
    of the states one step before them are from theirs; about 0.05 where the last step leads nowhere
    new. `value_inside` and `value_edge` are means over states 0..L-1 and over the last, `spread_*`
    those of the deviation over the critics. All are drawn evenly, without randomness.
    """
    spread = members.std(0, correction=0)
    found = {
        "reach/value_inside": value[:, :-1].mean(),
        "reach/value_edge": value[:, -1].mean(),
        "reach/spread_inside": spread[:, :-1].mean(),
        "reach/spread_edge": spread[:, -1].mean(),
    }
    if len(feature) > 1:
        found["reach/far"] = _far(feature.float())
    return found


def _far(feature: Tensor) -> Tensor:
    inputs = feature[0::2, :-1].flatten(0, 1)
    inputs = inputs[:: -(-len(inputs) // INPUTS)]
    ends = feature[1::2, -2:]
    ends = ends[:: -(-len(ends) // ROLLOUTS)]
    distance = nearest(ends.flatten(0, 1), inputs).view(-1, 2)
    before = distance[:, 0].sort().values
    usual = before[int(0.95 * (len(before) - 1))]
    return (distance[:, 1] > usual).float().mean()
