"""Every backbone, posterior, replay and value learner together: learn, stop, resume, evaluate."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodels.agent import Agent, find_checkpoint
from worldmodels.evaluation import evaluate
from worldmodels.presets import load_config
from worldmodels.registry import backbone_names
from worldmodels.trainer import train

KINDS = list(product(("fifo", "wmar"), ("plain", "ravl")))
EVERY = list(product(backbone_names(), ("hx", "x"), KINDS))
QUICK = [
    (name, ("hx", "x")[(i + i // 4) % 2], KINDS[i % 4]) for i, name in enumerate(backbone_names())
]
"""Every backbone once; every replay and value learner with both posteriors."""


def newest(run: Path) -> dict[str, Any]:
    return torch.load(find_checkpoint(run, "last") / "state.pt", weights_only=True)["learner"]


def learn_stop_resume_evaluate(backbone: str, posterior: Any, kind: tuple[str, str], run: Path):
    config = load_config(
        "catch",
        ["debug"],
        backbone=backbone,
        steps=50,
        threads=1,
        world_model={"posterior": posterior},
        replay={"retention": kind[0]},
        values={"kind": kind[1]},
    )
    train(config, run, quiet=True)
    half = newest(run)
    train(replace(config, steps=70), run, resume=True, quiet=True)
    whole = newest(run)
    assert 5 < half["updates"] < 20 <= whole["updates"]
    for part in ("world_model", "actor_critic"):
        assert all(bool(x.isfinite().all()) for x in whole[part].values())
        assert any(not torch.equal(half[part][name], x) for name, x in whole[part].items())
    scores = evaluate(Agent.load(run), 2, seed=1)
    assert len(scores["returns"]) == 2
    assert set(scores["returns"]) <= {-1.0, 1.0}
    assert np.isfinite(scores["believed"])


@pytest.mark.parametrize(("backbone", "posterior", "kind"), QUICK)
def test_together(backbone, posterior, kind, tmp_path):
    learn_stop_resume_evaluate(backbone, posterior, kind, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "posterior", "kind"), [one for one in EVERY if one not in QUICK]
)
def test_every_combination(backbone, posterior, kind, tmp_path):
    learn_stop_resume_evaluate(backbone, posterior, kind, tmp_path / "run")
