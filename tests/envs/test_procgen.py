"""Procgen against its emulator: levels, rows, ends of episodes, exact streams."""

from importlib.util import find_spec

import numpy as np
import pytest

from worldmodels.envs.names import PROCGEN
from worldmodels.envs.procgen import Procgen, _emulator_options
from worldmodels.envs.procgen_config import ProcgenConfig
from worldmodels.envs.procgen_library import RESET, Emulator
from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.testing import check_env

pytestmark = pytest.mark.skipif(find_spec("procgen") is None, reason="procgen is not installed")

NOOP, RIGHT, JUMP_RIGHT = np.array(4), np.array(7), np.array(8)

MODES = [
    (game, mode)
    for game in PROCGEN
    for mode in ProcgenConfig(f"procgen:{game}").modes
    if mode != "exploration"
]


def procgen(game: str, seed: int = 0, **options) -> Procgen:
    return Procgen(ProcgenConfig(f"procgen:{game}", **options), seed)


def play(env, seed: int, count: int, running: bool = False) -> list:
    return RandomPlay(env, seed, running).rows(count)


@pytest.mark.parametrize(("max_steps", "sequential"), [(0, False), (40, False), (0, True)])
def test_keeps_every_law_with_generated_assets(max_steps, sequential):
    """The library cannot save these; the episode is played again instead."""
    config = ProcgenConfig(
        "procgen:dodgeball",
        "easy",
        num_levels=3,
        use_sequential_levels=sequential,
        use_generated_assets=True,
        max_steps=max_steps,
    )
    assert "state after is_last" in check_env(lambda seed: Procgen(config, seed), steps=300)


def test_levels_with_generated_assets_are_those_of_the_set_and_look_alike():
    """An emulator of its own per episode shows what one emulator for all shows."""
    env = procgen("coinrun", num_levels=3, start_level=5, use_generated_assets=True)
    shown: dict[int, bytes] = {}
    for _ in range(20):
        image = env.reset().obs["image"].tobytes()
        assert shown.setdefault(env._emulator.level_seed, image) == image
    one = Emulator(_emulator_options(env._config, 3))
    for _ in range(20):
        assert shown[one.level_seed] == one.frame.tobytes()
        one.act(RESET)
    assert shown.keys() == {5, 6, 7}


def level_seeds(env, episodes: int) -> list[int]:
    """The levels of the next episodes; `reset` in mid-episode draws a new one."""
    seeds = []
    for _ in range(episodes):
        env.reset()
        seeds.append(env._emulator.level_seed)
    return seeds


def run_to_the_end(env, action) -> list:
    rows = [env.reset()]
    while not rows[-1].is_last:
        rows.append(env.step(action))
    return rows


@pytest.mark.parametrize("game", ["coinrun", "maze", "starpilot", "bigfish", "fruitbot", "jumper"])
def test_keeps_every_law(game):
    config = ProcgenConfig(f"procgen:{game}", distribution_mode="easy", max_steps=60)
    assert "state after is_last" in check_env(lambda seed: Procgen(config, seed), steps=150)


@pytest.mark.parametrize("game", ["starpilot", "dodgeball"])
def test_keeps_every_law_where_the_emulator_ends_the_episode(game):
    config = ProcgenConfig(f"procgen:{game}", distribution_mode="easy")
    assert "state after is_last" in check_env(lambda seed: Procgen(config, seed), steps=300)


@pytest.mark.parametrize(("game", "mode"), MODES)
def test_every_game_plays_in_every_mode_and_ends_at_its_limit(game, mode):
    env = procgen(game, distribution_mode=mode)
    rows = play(env, 0, 20)
    images = np.concatenate([row.obs["image"] for row in rows])
    assert images.dtype == np.uint8
    assert images.std() > 5
    assert env._config.time_limit == _limit_in(env.get_state()["emulator"])


def _limit_in(state: bytes) -> int:
    """The time limit that a state holds: behind 17 integers and two generators (game.cpp)."""

    def number(at: int) -> int:
        return int.from_bytes(state[at : at + 4], "little")

    at = 8 + number(4) + 17 * 4
    for _ in range(2):  # random generators, each a flag and a text of its own length
        at += 8 + number(at + 4)
    return number(at + 4 * 4)


@pytest.mark.parametrize(
    "game", ["caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja"]
)
def test_exploration_is_one_level_whatever_the_seed(game):
    a, b = (procgen(game, seed, distribution_mode="exploration") for seed in (0, 1))
    assert len(set(level_seeds(a, 3) + level_seeds(b, 3))) == 1


def test_a_set_of_levels_is_exactly_that_set():
    env = procgen("coinrun", num_levels=5, start_level=100)
    assert set(level_seeds(env, 60)) == set(range(100, 105))
    assert set(level_seeds(procgen("maze", num_levels=1, start_level=7), 5)) == {7}
    assert len(set(level_seeds(procgen("coinrun"), 60))) == 60


def test_one_level_looks_the_same_for_every_seed():
    a, b = (procgen("coinrun", seed, num_levels=1, start_level=7) for seed in (0, 1))
    assert first_difference(play(a, 0, 100), play(b, 0, 100)) is None


def test_equal_seeds_give_equal_streams_and_others_do_not():
    a, b, c = (procgen("starpilot", seed) for seed in (5, 5, 6))
    rows = play(a, 0, 300)
    assert first_difference(rows, play(b, 0, 300)) is None
    assert first_difference(rows, play(c, 0, 300)) is not None


def test_rows_are_what_the_emulator_paid_and_showed():
    """By hand on a second emulator: every reward and frame once, the lost last frame repeated."""
    env, other = procgen("dodgeball", 3), procgen("dodgeball", 3)
    rows, emulator = play(env, 0, 400), other._emulator
    random, ended, ends = np.random.default_rng(0), True, 0
    for row in rows:
        action = int(random.integers(15))
        before = emulator.frame.copy()
        if ended:
            assert row.is_first.item()
            assert (row.obs["image"][0] == before).all()
            ended = False
            continue
        reward, ended, _ = emulator.act(action)
        assert row.reward.item() == pytest.approx(reward)
        assert row.is_last.item() == ended
        assert row.obs_valid.item() == (not ended)
        assert (row.obs["image"][0] == (before if ended else emulator.frame)).all()
        ends += ended
    assert ends >= 3


def test_the_games_limit_truncates():
    rows = run_to_the_end(procgen("maze", distribution_mode="easy"), NOOP)
    assert len(rows) == 501
    assert not rows[-1].is_terminal.item()
    assert not rows[-1].obs_valid.item()
    assert sum(row.reward.item() for row in rows) == 0


def test_a_win_is_terminal_and_pays():
    """Running and jumping right solves this level."""
    env = procgen("coinrun", distribution_mode="easy", num_levels=1, start_level=3)
    rows = run_to_the_end(env, JUMP_RIGHT)
    assert rows[-1].is_terminal.item()
    assert [row.reward.item() for row in rows] == [0.0] * (len(rows) - 1) + [10.0]
    assert len(rows) < 200


def test_a_death_is_terminal_and_pays_nothing():
    rows = [row for row in play(procgen("dodgeball", 1), 0, 300) if row.is_last]
    deaths = [row for row in rows if row.reward.item() == 0]
    assert deaths
    assert all(row.is_terminal.item() for row in deaths)


def test_max_steps_truncates_with_a_true_last_frame():
    free, limited = procgen("starpilot", 2), procgen("starpilot", 2, max_steps=10)
    rows = run_to_the_end(limited, NOOP)
    assert first_difference([free.reset(), *(free.step(NOOP) for _ in range(9))], rows[:-1]) is None
    assert len(rows) == 11
    last = free.step(NOOP)
    assert (rows[-1].obs["image"] == last.obs["image"]).all()
    assert rows[-1].obs_valid.item()
    assert not rows[-1].is_terminal.item()
    level = limited._emulator.level_seed
    limited.reset()
    assert limited._emulator.level_seed != level


def test_sequential_levels_go_on_within_the_episode():
    """A completed level pays and leads to the next; the game's clock starts again with it."""
    options = {"distribution_mode": "easy", "num_levels": 1, "start_level": 3}
    env = procgen("coinrun", use_sequential_levels=True, **options)
    rows, levels = [env.reset()], []
    while not rows[-1].is_last:
        rows.append(env.step(JUMP_RIGHT if not levels else NOOP))
        if rows[-1].reward.item():
            levels.append(env._emulator.level_seed)
    assert len(levels) == 1
    assert levels[0] != 3
    won = next(t for t, row in enumerate(rows) if row.reward.item() == 10)
    assert rows[won].obs_valid.item()
    assert len(rows) == 1 + won + 1000
    assert not rows[-1].is_terminal.item()
    assert env.spec.reference_score is None
