"""Catch: known returns for known policies, in every variant."""

import hashlib
from itertools import product

import numpy as np
import pytest

from worldmodels.envs.catch import COLUMNS, ROWS, Catch
from worldmodels.envs.configs import CatchConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.testing import check_env


def test_keeps_every_law():
    assert "state after is_last" in check_env(lambda seed: Catch(CatchConfig(), seed), steps=200)


def test_an_episode_is_nine_steps_and_ten_rows():
    rows = RandomPlay(Catch(CatchConfig(), 0), seed=0).rows(20)
    assert [row.is_last.item() for row in rows] == ([False] * 9 + [True]) * 2
    assert [row.is_terminal.item() for row in rows] == [row.is_last.item() for row in rows]
    assert all(row.reward.item() == 0 for row in rows if not row.is_last)


def test_random_play_scores_about_minus_0_6():
    env = Catch(CatchConfig(), 0)
    rows = RandomPlay(env, seed=1).rows(20_000)
    ends = [row.reward.item() for row in rows if row.is_last]
    # 2000 returns of -1 or 1: standard error 0.018.
    assert np.mean(ends) == pytest.approx(env.spec.random_score, abs=0.07)


def test_following_the_ball_always_catches_it():
    env = Catch(CatchConfig(), 3)
    for _ in range(50):
        row = env.reset()
        while not row.is_last:
            board = row.obs["planes"][0, ..., 0]
            ball = int(board[:-1].nonzero()[1][0])
            paddle = int(board[-1].nonzero()[0][0])
            row = env.step(np.array(1 + np.sign(ball - paddle)))
        assert row.reward.item() == 1
        assert row.obs["planes"].sum() == 1  # ball and paddle share the cell


def test_the_ball_starts_in_every_column():
    env = Catch(CatchConfig(), 0)
    boards = [env.reset().obs["planes"][0, ..., 0] for _ in range(100)]
    assert {int(board[0].argmax()) for board in boards} == set(range(COLUMNS))
    assert boards[0].shape == (ROWS, COLUMNS)


VARIANTS = [
    CatchConfig(view=view, inverted=inverted, controls=controls)
    for view, inverted, controls in product(
        ("upright", "flipped"), (False, True), ("normal", "reversed", "rotated")
    )
]
ACTION = {
    "normal": {"left": 0, "stay": 1, "right": 2},
    "reversed": {"right": 0, "stay": 1, "left": 2},
    "rotated": {"stay": 0, "right": 1, "left": 2},
}


def test_the_defaults_are_the_catch_that_they_always_were():
    """Digest of 500 rows of random play, taken before there were options."""
    digest = hashlib.sha256()
    for row in RandomPlay(Catch(CatchConfig(), 0), 0).rows(500):
        for value in (row.obs["planes"], row.reward, row.is_last, row.is_terminal):
            digest.update(value.tobytes())
    assert digest.hexdigest().startswith("05c28449940033d21013a4b5a3fe24ac")


@pytest.mark.parametrize("config", VARIANTS)
def test_every_variant_is_caught_with_its_own_controls_and_lost_with_others(config):
    env, random = Catch(config, 3), Catch(config, 4)
    for _ in range(20):
        row = env.reset()
        while not row.is_last:
            board = row.obs["planes"][0, ..., 0] != config.inverted
            board = board[::-1] if config.view == "flipped" else board
            ball = int(board[:-1].nonzero()[1][0])
            paddle = int(board[-1].nonzero()[0][0])
            way = ("left", "stay", "right")[1 + int(np.sign(ball - paddle))]
            row = env.step(np.array(ACTION[config.controls][way]))
        assert row.reward.item() == 1
    ends = [row.reward.item() for row in RandomPlay(random, seed=1).rows(5_000) if row.is_last]
    assert np.mean(ends) == pytest.approx(-0.6, abs=0.15)  # 500 returns: standard error 0.036
    assert (env.spec.random_score, env.spec.reference_score) == (-0.6, 1.0)


def test_views_differ_and_controls_cannot_be_seen():
    looks = {}
    for config in VARIANTS:
        looks.setdefault((config.view, config.inverted), []).append(
            Catch(config, 0).reset().obs["planes"].tobytes()
        )
    assert all(len(set(same)) == 1 for same in looks.values())
    assert len({same[0] for same in looks.values()}) == 4


@pytest.mark.parametrize(("option", "value"), [("view", "sideways"), ("controls", "mirrored")])
def test_an_unknown_variant_is_refused(option, value):
    with pytest.raises(UserError, match=f"catch: {option} is {value}, but it must be one of"):
        CatchConfig(**{option: value})


def test_the_background_falls_and_tells_nothing():
    """Half its cells are lit; each row is the one above of before; the game is the same game."""
    plain, noisy = Catch(CatchConfig(), 5), Catch(CatchConfig(background=0.5), 5)
    assert noisy.spec.obs["planes"].shape == (10, 5, 2)
    assert plain.spec.obs["planes"].shape == (10, 5, 1)
    lit, before = [], None
    for row in RandomPlay(noisy, 1).rows(2_000):
        background = row.obs["planes"][0, ..., 1]
        if before is not None and not row.is_first:
            assert (background[1:] == before[:-1]).all()
            lit.append(background[0])
        assert row.obs["planes"][0, ..., 0].sum() in (1, 2)
        before = background
    assert np.mean(lit) == pytest.approx(0.5, abs=0.03)  # 9000 cells: standard error 0.005
    with pytest.raises(UserError, match=r"background is 1\.0, but it must be at least 0"):
        CatchConfig(background=1.0)
