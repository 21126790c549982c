"""How an ensemble's values become one.

The minimum over all members is RAVL's (Sims et al. 2024, arXiv 2402.12527), taken of scalars after
each member's expectation: a minimum of logits would be of no distribution. The minimum over a
random subset is REDQ's (Chen et al. 2021, arXiv 2101.05982).
"""

import torch
from torch import Tensor

from worldmodels.values.configs import ValuesConfig


def reduce_members(members: Tensor, config: ValuesConfig, draw: bool = True) -> Tensor:
    """members [V, ...] -> [...]: `mean`, `min`, `lcb` (mean - c std) or `subset_min`.

    The standard deviation is over the members themselves (divided by V). `subset_min` draws
    `config.subset` members, one choice for the whole call, from torch's global generator; without
    `draw` it takes the first ones.
    """
    if config.reducer == "min":
        return members.amin(0)
    if config.reducer == "lcb":
        return members.mean(0) - config.lcb * members.std(0, correction=0)
    if config.reducer == "subset_min":
        if draw:
            members = members[torch.rand(members.shape[0], device=members.device).argsort()]
        return members[: config.subset].amin(0)
    return members.mean(0)
