"""Memory tasks: the scores of random play, of no memory and of a perfect one."""

from itertools import pairwise

import numpy as np
import pytest

from worldmodels.envs.configs import MemoryCatchConfig, MemoryRepeatConfig, MemoryTMazeConfig
from worldmodels.envs.memory import MemoryCatch, MemoryRepeat, MemoryTMaze
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.testing import check_env

NAMES = ("memory:catch", "memory:tmaze-2", "memory:tmaze-20", "memory:repeat-1", "memory:repeat-8")


def board(row) -> np.ndarray:
    return row.obs["planes"][0, ..., 0]


def play(env, policy) -> tuple[float, int]:
    """Return and steps of one episode; `policy` sees all that was shown and is asked every row."""
    row, total, steps, seen = env.reset(), 0.0, 0, []
    while not row.is_last:
        seen.append(board(row))
        row = env.step(np.array(policy(seen)))
        total, steps = total + row.reward.item(), steps + 1
    return total, steps


def catch_perfectly(seen):
    ball = seen[0][0].argmax()
    paddle = seen[-1][-1].argmax()
    return 1 + np.sign(ball - paddle)


def turn_perfectly(seen):
    return int(seen[0][-1, -1])


def repeat_perfectly(delay):
    return lambda seen: seen[-1 - delay].argmax() // 10 if len(seen) > delay else 0


PERFECT = {
    "memory:catch": (catch_perfectly, 9),
    "memory:tmaze-2": (turn_perfectly, 3),
    "memory:tmaze-20": (turn_perfectly, 21),
    "memory:tmaze-100": (turn_perfectly, 101),
    "memory:repeat-1": (repeat_perfectly(1), 33),
    "memory:repeat-8": (repeat_perfectly(8), 40),
    "memory:repeat-50": (repeat_perfectly(50), 150),
}


@pytest.mark.parametrize("name", NAMES)
def test_keeps_every_law(name):
    """Among them: a state saved in mid-episode and after the end continues exactly."""
    laws = check_env(lambda seed: make(config_for(name), seed), steps=300)
    assert {"state in mid-episode", "state after is_last"} <= set(laws)
    assert make(config_for(name), 0).spec.obs["planes"].shape == (10, 5, 1)


@pytest.mark.parametrize("name", PERFECT)
def test_perfect_memory_scores_one(name):
    policy, length = PERFECT[name]
    env = make(config_for(name), 3)
    for _ in range(30):
        total, steps = play(env, policy)
        assert total == pytest.approx(env.spec.reference_score, abs=1e-6)
        assert steps == length


@pytest.mark.parametrize("name", NAMES)
def test_random_play_scores_as_the_spec_says(name):
    env = make(config_for(name), 0)
    returns, total = [], 0.0
    for row in RandomPlay(env, seed=1).rows(20_000):
        total += row.reward.item()
        if row.is_last:
            returns.append(total)
            total = 0.0
    # Five standard errors, with those of one task's own returns.
    error = 5 * np.std(returns) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(env.spec.random_score, abs=error)
    assert error < 0.2


def after(env, state, action):
    """The row of `action` in `state`, and the state that follows."""
    env.set_state(state)
    return env.step(np.array(action)), env.get_state()


def blind_means(env, twins, cue_rows: int) -> set[float]:
    """The mean return over `twins` of every sequence of actions, checked to be all that counts.

    `twins` are the equally likely states after a reset. While the cue is shown (the first
    `cue_rows` rows) actions change nothing; from then on the twins show the same under the same
    actions. So a policy without memory, deterministic or random, acts on every twin alike: its mean
    return is a mean of those given here.
    """
    means, frontier = set(), [list(twins)]
    for row_index in range(1, 200):
        reached = {}
        for states in frontier:
            for action in range(env.spec.action.size):
                rows, states_after = zip(*(after(env, s, action) for s in states), strict=True)
                if row_index >= cue_rows:
                    assert all((board(row) == board(rows[0])).all() for row in rows)
                if rows[0].is_last:
                    means.add(float(np.mean([row.reward.item() for row in rows])))
                else:
                    assert not any(row.reward.item() for row in rows)
                    reached[repr(states_after)] = states_after
        assert len(reached) == 1 or row_index > cue_rows
        frontier = list(reached.values())
        if not frontier:
            return means
    raise AssertionError("the episode does not end")


def test_catch_without_memory_is_a_guess_among_five():
    env = MemoryCatch(MemoryCatchConfig(), 0)
    env.reset()
    twins = [{**env.get_state(), "ball": [0, column]} for column in range(5)]
    assert blind_means(env, twins, cue_rows=2) == {env.spec.memoryless_score}


def test_the_proof_fails_where_the_paddle_can_hold_the_column():
    class Parks(MemoryCatch):
        def _move(self, action):
            return super(MemoryCatch, self)._move(action)

    env = Parks(MemoryCatchConfig(), 0)
    env.reset()
    twins = [{**env.get_state(), "ball": [0, column]} for column in range(5)]
    with pytest.raises(AssertionError, match="assert"):
        blind_means(env, twins, cue_rows=2)


@pytest.mark.parametrize("length", [2, 3, 9, 20])
def test_the_tmaze_without_memory_is_a_coin(length):
    env = MemoryTMaze(MemoryTMazeConfig(f"memory:tmaze-{length}"), 0)
    env.reset()
    twins = [{**env.get_state(), "cue": cue} for cue in (0, 1)]
    assert blind_means(env, twins, cue_rows=1) == {env.spec.memoryless_score}


@pytest.mark.parametrize(
    ("env", "cue", "choices"),
    [
        (MemoryCatch(MemoryCatchConfig(), 5), lambda first: first[0].argmax(), 5),
        (MemoryTMaze(MemoryTMazeConfig(), 5), lambda first: first[-1, -1], 2),
    ],
)
def test_the_twins_are_equally_likely(env, cue, choices):
    draws = np.random.default_rng(5)
    assert all(cue(board(env.reset())) == draws.integers(choices) for _ in range(100))


@pytest.mark.parametrize(("delay", "symbols"), [(1, 4), (3, 4), (2, 5), (1, 2)])
def test_repeat_without_memory_is_chance(delay, symbols):
    """The symbols are independent draws, and each answer's pay depends on one past symbol only.

    So every policy of the current symbol gets, at each of N answers, the mean over the wanted one.
    """
    env = MemoryRepeat(MemoryRepeatConfig(f"memory:repeat-{delay}", symbols), 7)
    draws = np.random.default_rng(7)
    rows = RandomPlay(env, seed=0).rows(200)  # whatever is answered
    assert [board(row).argmax() // 10 for row in rows] == [draws.integers(symbols) for _ in rows]

    answers, between = 32, [0] * (delay - 1)
    pay = np.zeros((symbols, symbols, symbols))  # current, answer, wanted
    for current, answer, wanted in np.ndindex(pay.shape):
        state = env.get_state() | {"symbols": [wanted, *between, current], "steps": delay}
        pay[current, answer, wanted] = after(env, state, answer)[0].reward.item()
    assert answers * pay.mean(-1) == pytest.approx(env.spec.memoryless_score, abs=1e-6)


def test_repeat_pays_for_answers_from_the_kth_on():
    env = make(config_for("memory:repeat-8"), 0)
    env.reset()
    rewards = [env.step(np.array(0)).reward.item() for _ in range(40)]
    assert rewards[:8] == [0] * 8
    assert {abs(reward) for reward in rewards[8:]} == {1 / 32}


def test_repeat_is_truncated_and_the_others_terminate():
    for name, terminal in (("catch", True), ("tmaze-20", True), ("repeat-8", False)):
        rows = RandomPlay(make(config_for(f"memory:{name}"), 0), seed=0).rows(150)
        assert {row.is_terminal.item() for row in rows if row.is_last} == {terminal}


def test_the_ball_is_drawn_in_two_rows():
    rows = RandomPlay(make(config_for("memory:catch"), 0), seed=0).rows(10)
    assert [board(row).sum() for row in rows] == [2, 2] + [1] * 8


def test_the_tmaze_shows_its_way():
    env = MemoryTMaze(MemoryTMazeConfig("memory:tmaze-12"), 0)
    cued = board(env.reset())
    assert cued[-1, [0, -1]].sum() == 1
    views = [board(env.step(np.array(0))) for _ in range(12)]
    assert all((a != b).any() for a, b in pairwise(views))
    picture = ["".join(".#"[int(cell)] for cell in line) for line in views[-1]]
    assert picture == ["....."] * 8 + ["#####", "..#.."]
    # Nine steps before the choice, the junction comes in sight.
    assert (views[2][0] == 0).all()
    assert (views[2][1] == [1, 1, 0, 1, 1]).all()
    assert board(env.step(np.array(1)))[-1].tolist() == [0, 0, 0, 1, 0]
