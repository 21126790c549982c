"""The rules of the row stream (design law 1), on scripted environments."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodels.envs.configs import AtariConfig, CatchConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.rollout import first_difference
from worldmodels.envs.spec import Step
from worldmodels.envs.vector import VecEnv, make_vec

TERMINAL, TRUNCATED = "terminal", "truncated"
episodes = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([TERMINAL, TRUNCATED])), min_size=1, max_size=4
)


def play(vec: VecEnv, steps: int, action: int = 1):
    return [vec.step(np.full(vec.num_envs, action)) for _ in range(steps)]


def test_the_worked_episode(scripted):
    """Actions a0 a1 a2, terminal on the third, then a new episode: the design's own table."""
    rows = play(VecEnv([scripted([(3, TERMINAL)])]), 5)
    columns = {
        name: [float(getattr(row, name)[0]) for row in rows]
        for name in ("reward", "is_first", "is_last", "is_terminal", "is_real_step")
    }
    assert columns == {
        "reward": [0, 1, 2, 3, 0],
        "is_first": [1, 0, 0, 0, 1],
        "is_last": [0, 0, 0, 1, 0],
        "is_terminal": [0, 0, 0, 1, 0],
        "is_real_step": [0, 1, 1, 1, 0],
    }
    assert [row.obs["vector"].item() for row in rows] == [1, 2, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(scripts=st.lists(episodes, min_size=1, max_size=3))
def test_every_script_gives_k_plus_one_rows(scripted, scripts):
    rows = play(VecEnv([scripted(script) for script in scripts]), 40)
    for e, script in enumerate(scripts):
        assert rows[0].is_first[e]
        assert all(after.is_first[e] == row.is_last[e] for row, after in pairwise(rows))
        starts = [t for t, row in enumerate(rows) if row.is_first[e]]
        for number, (start, end) in enumerate(pairwise(starts)):
            length, how = script[number % len(script)]
            assert end - start == length + 1
            assert sum(row.reward[e] for row in rows[start:end]) == length * (length + 1) / 2
            assert rows[end - 1].is_last[e]
            assert rows[end - 1].is_terminal[e] == (how == TERMINAL)
            assert not any(row.is_last[e] or row.is_terminal[e] for row in rows[start : end - 1])


def test_the_action_of_a_reset_row_is_ignored(scripted):
    env = scripted([(2, TERMINAL)])
    vec = VecEnv([env])
    for action in (3, 0, 1, 3, 2):  # reset, step, step, reset, step
        vec.step(np.array([action]))
    assert env.actions == [0, 1, 2]


def test_rows_are_owned_by_the_caller(scripted):
    board = np.zeros((2, 2, 1), np.bool_)
    assert not np.shares_memory(Step.row({"planes": board}).obs["planes"], board)
    vec = VecEnv([scripted([(9, TERMINAL)]), scripted([(9, TERMINAL)])])
    row = vec.step(np.zeros(2))
    before = row.obs["vector"].copy()
    row_after = vec.step(np.zeros(2))
    assert (row.obs["vector"] == before).all()
    assert row.obs["vector"].base is None
    assert not np.shares_memory(row.obs["vector"], row_after.obs["vector"])


def test_an_error_in_mid_episode_names_env_and_step(scripted):
    vec = VecEnv([scripted([(9, TERMINAL)]), scripted([(3, "raise")])])
    play(vec, 3)
    with pytest.raises(UserError, match="environment 1 of 2") as info:
        play(vec, 1)
    assert "(scripted) raised RuntimeError at step 3 of its episode: the motor burnt out" in str(
        info.value
    )
    assert isinstance(info.value.__cause__, RuntimeError)


def test_state_continues_exactly_and_names_what_has_none(scripted):
    def build(savable):
        return VecEnv([scripted([(3, TERMINAL)]), scripted([(2, TRUNCATED)], savable)])

    for warm in (0, 1, 2, 3, 4, 7):
        vec, copy = build(True), build(True)
        play(vec, warm)
        assert copy.set_state(pickle.loads(pickle.dumps(vec.get_state()))) == []
        assert first_difference(play(vec, 12), play(copy, 12)) is None

    vec, copy = build(False), build(False)
    play(vec, 2)
    assert copy.set_state(vec.get_state()) == [1]
    row = play(copy, 1)[0]
    assert row.is_first.tolist() == [False, True]


def test_another_number_of_envs_is_refused(scripted):
    vec = VecEnv([scripted([(3, TERMINAL)])])
    with pytest.raises(UserError, match="has 2 environments and this one has 1"):
        vec.set_state([None, None])


def test_different_spaces_are_refused(scripted):
    catch = make_vec(CatchConfig(), 1, seed=0).envs[0]
    with pytest.raises(UserError, match=r"environment 1 .catch. has other spaces"):
        VecEnv([scripted([(3, TERMINAL)]), catch])


def test_close_reaches_every_env(scripted):
    envs = [scripted([(3, TERMINAL)]) for _ in range(3)]
    VecEnv(envs).close()
    assert [env.closed for env in envs] == [1, 1, 1]


def test_env_seeds_differ_and_do_not_depend_on_their_number():
    def columns(num_envs, seed):
        vec = make_vec(CatchConfig(), num_envs, seed)
        return np.array([row.obs["planes"] for row in play(vec, 60)]).reshape(60, num_envs, -1)

    four, again = columns(4, 0), columns(4, 0)
    assert (four == again).all()
    assert (columns(1, 0)[:, 0] == four[:, 0]).all()
    assert (columns(1, 1)[:, 0] != four[:, 0]).any()
    assert all((four[:, i] != four[:, j]).any() for i in range(4) for j in range(i))


def test_one_atari_env_equals_the_first_of_three():
    one, three = (make_vec(AtariConfig(), n, seed=5) for n in (1, 3))
    for _ in range(60):
        a, b = one.step(np.array([2])), three.step(np.array([2, 3, 0]))
        assert (a.obs["image"][0] == b.obs["image"][0]).all()
