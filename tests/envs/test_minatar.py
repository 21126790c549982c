"""MinAtar: equal to the package's own environment, restorable, and without side effects."""

import subprocess
import sys

import numpy as np
import pytest

from worldmodels.envs.configs import MinAtarConfig
from worldmodels.envs.names import MINATAR
from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.testing import check_env

pytest.importorskip("minatar", reason="needs the extra worldmodels-rl[minatar]")

from worldmodels.envs.minatar import MinAtar

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}


@pytest.mark.parametrize("game", MINATAR)
def test_keeps_every_law(game):
    config = MinAtarConfig(f"minatar:{game}", max_steps=150)
    assert "state after is_last" in check_env(lambda seed: MinAtar(config, seed), steps=300)
    assert MinAtar(config, 0).spec.obs["planes"].shape == (10, 10, CHANNELS[game])


def test_the_stream_is_that_of_the_package():
    from minatar import Environment

    theirs = Environment("breakout", sticky_action_prob=0.1)
    theirs.seed(5)
    theirs.reset()
    env = MinAtar(MinAtarConfig(full_action_space=True), 5)
    row = env.reset()
    for action in np.random.default_rng(0).integers(6, size=500):
        assert (row.obs["planes"][0] == theirs.state()).all()
        if row.is_last:
            theirs.reset()
            row = env.reset()
            continue
        row = env.step(action)
        reward, ended = theirs.act(action)
        assert (row.reward.item(), row.is_last.item()) == (reward, ended)


@pytest.mark.parametrize("game", MINATAR)
def test_different_seeds_differ(game):
    streams = [
        RandomPlay(MinAtar(MinAtarConfig(f"minatar:{game}"), seed), seed=0).rows(200)
        for seed in (0, 1)
    ]
    assert first_difference(*streams) is not None


def test_the_time_limit_truncates():
    env = MinAtar(MinAtarConfig("minatar:freeway", max_steps=20), 0)
    rows = RandomPlay(env, seed=0).rows(21)
    assert rows[-1].is_last.item()
    assert not any(row.is_terminal for row in rows)


def test_freeways_hidden_clock_is_no_terminal():
    rows = RandomPlay(MinAtar(MinAtarConfig("minatar:freeway"), 0), seed=0).rows(2502)
    assert [t for t, row in enumerate(rows) if row.is_last] == [2501]
    assert not any(row.is_terminal for row in rows)


def test_minimal_and_full_action_sets():
    assert MinAtar(MinAtarConfig(), 0).spec.action.size == 3
    assert MinAtar(MinAtarConfig(full_action_space=True), 0).spec.action.size == 6


def test_no_plotting_library_is_imported():
    code = (
        "import sys; from worldmodels.envs.registry import config_for, make; "
        "make(config_for('minatar:breakout'), 0).reset(); "
        "print({'matplotlib', 'seaborn', 'pandas', 'torch'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
