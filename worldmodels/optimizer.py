"""The optimiser of a run, over the parameter groups that its modules ask for."""

from collections.abc import Iterable
from typing import Any

import torch

from worldmodels.errors import UserError
from worldmodels.kinds import optimizer_class
from worldmodels.sockets import Socket


def build_optimizer(options: Any, modules: Iterable[Socket]) -> torch.optim.Optimizer:
    """One optimiser for all modules; what a group does not say, `options` does.

    Raises UserError where a group's weight decay is asked of an optimiser that has none.
    """
    groups = _merged(group for module in modules for group in module.parameter_groups())
    optimizer = optimizer_class(options.name)(groups, **options.arguments())
    decays = any(group.get("weight_decay") for group in groups)
    if decays and "weight_decay" not in optimizer.defaults:
        raise UserError(
            f"optimizer.name {options.name} has no weight decay, which these models ask for; "
            "use adam"
        )
    return optimizer


def _merged(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups that differ in nothing but their parameters as one, in the order of the first."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        one = merged.setdefault(tuple(sorted(options.items())), {"params": [], **options})
        one["params"] += group["params"]
    return list(merged.values())
