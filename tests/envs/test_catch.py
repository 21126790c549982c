"""Catch: known returns for known policies."""

import numpy as np
import pytest

from worldmodels.envs.catch import COLUMNS, ROWS, Catch
from worldmodels.envs.configs import CatchConfig
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
