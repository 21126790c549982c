"""A small data set of Catch, and a tiny run that learns from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldmodels.config import Config
from worldmodels.envs.configs import CatchConfig
from worldmodels.envs.registry import make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.spec import Step
from worldmodels.offline.writing import write_minari
from worldmodels.presets import load_config
from worldmodels.replay.recorded import Recorded

EPISODES = 12
ROWS = 10
"""Of an episode of Catch."""


@pytest.fixture(scope="session")
def episodes() -> list[Recorded]:
    """Random episodes of Catch; the actions are made up where only rows matter."""
    env, random = make(CatchConfig(), seed=0), np.random.default_rng(0)
    played = RandomPlay(env, seed=1)

    def row() -> tuple[Step, np.ndarray]:
        step = played.row()
        return step, np.array([-1 if step.is_first[0] else random.integers(3)])

    return [Recorded.of([row() for _ in range(ROWS)]) for _ in range(EPISODES)]


@pytest.fixture(scope="session")
def catch_set(episodes, tmp_path_factory) -> Path:
    """`episodes` as a Minari data set with references of its own."""
    out = tmp_path_factory.mktemp("sets") / "catch-v0"
    about = {"ref_min_score": -1.0, "ref_max_score": 3.0}
    write_minari(out, make(CatchConfig(), seed=0).spec, episodes, about)
    return out


@pytest.fixture
def tiny(catch_set: Path) -> Config:
    config = load_config("catch", presets=["debug"], offline=str(catch_set))
    return replace(config, deterministic=True, threads=1, steps=12)
