"""Small parts of control, and rows that cross episodes."""

from typing import Any

import pytest
import torch

from worldmodels.config import Config
from worldmodels.objects import Batch
from worldmodels.presets import load_config


@pytest.fixture(scope="session")
def small():
    """`small("ravl-mbpo", actor_critic={"critics": 3})`: a preset with tiny networks."""

    def make(preset: str = "ravl-mbpo", **options: Any) -> Config:
        options["actor_critic"] = {"units": 8, "layers": 1} | options.get("actor_critic", {})
        options["replay"] = {"batch_size": 16} | options.get("replay", {})
        if preset != "sac":
            tiny = {"members": 3, "elites": 2, "units": 8, "layers": 2}
            options["world_model"] = tiny | options.get("world_model", {})
            options["actor_critic"] = {"batch": 32, "starts": 6, "imagination_length": 3} | (
                options["actor_critic"]
            )
        else:
            options["actor_critic"] = {"batch": 16} | options["actor_critic"]
        return load_config("gym:Pendulum-v1", [preset], threads=1, **options)

    return make


@pytest.fixture(scope="session")
def crossing():
    """`crossing(make_batch(...))`: the same rows with borders of every kind.

    Sequence 0 ends by a time limit at row 1 and starts anew at 2; sequence 1 ends by a terminal at
    row 2; sequence 2 has a lost life at row 1 (terminal, not last) and an unseen row 3; sequence 3
    has a last row 0 without a first one behind it, and a first row 2 without a last one before it.
    """

    def cross(batch: Batch) -> Batch:
        assert batch.reward.shape == (4, 4)
        no = torch.zeros(4, 4, dtype=torch.bool)
        first, last, terminal, valid = no.clone(), no.clone(), no.clone(), ~no
        last[0, 1] = first[0, 2] = True
        last[1, 2] = terminal[1, 2] = first[1, 3] = True
        terminal[2, 1], valid[2, 3] = True, False
        last[3, 0] = first[3, 2] = True
        batch.is_first, batch.is_last, batch.is_terminal = first, last, terminal
        batch.obs_valid = valid
        return batch

    return cross
