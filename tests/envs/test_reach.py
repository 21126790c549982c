"""Edge-of-reach environments: what pays, what is within reach, and one code for two libraries."""

from itertools import product

import numpy as np
import pytest
import torch

from worldmodels.envs.errors import UserError
from worldmodels.envs.reach import Reach, ReachDynamics, ReachPlane
from worldmodels.envs.reach_config import ReachConfig, ReachPlaneConfig
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.testing import check_env

MOVES = list(product((-1, 0, 1), repeat=2))
RIGHT, STAY = MOVES.index((1, 0)), MOVES.index((0, 0))
CONFIGS = [
    ReachConfig(),
    ReachConfig("reach:bump", half_width=2),
    ReachConfig("reach:rampx", observation="pixels"),
    ReachPlaneConfig(),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_keeps_every_law(config):
    laws = check_env(lambda seed: make(config, seed), steps=200)
    assert {"state in mid-episode", "state after is_last"} <= set(laws)


def play(env, actions) -> list:
    return [env.reset(), *(env.step(np.array(action)) for action in actions)]


def test_arriving_pays_for_the_place_that_was_left():
    """Row t + 1 holds f(s_t): the worst state within 10 steps is paid in row 11."""
    rows = play(Reach(ReachConfig(), 0), [RIGHT] * 12)
    assert [row.obs["vector"][0, 0].item() for row in rows] == pytest.approx(np.arange(13) / 10)
    expected = [0, *(0.5 * x / 9 for x in range(10)), -1, -1]
    assert [row.reward.item() for row in rows] == pytest.approx(expected)


def test_an_episode_is_truncated():
    rows = RandomPlay(Reach(ReachConfig(max_steps=7), 0), seed=0).rows(24)
    assert [row.is_last.item() for row in rows] == ([False] * 7 + [True]) * 3
    assert not any(row.is_terminal.item() for row in rows)


def reward_by_hand(name: str, x: int, y: int, edge: int) -> float:
    if name == "reach:bump":
        return float((x - 4) ** 2 + y**2 <= 2)
    if max(abs(x), abs(y)) >= edge:
        return -1.0
    if name == "reach:ramp":
        return 0.5 * max(abs(x), abs(y)) / (edge - 1)
    return 0.6 if (x + 3) ** 2 + y**2 <= 2 else 0.5 * max(x, 0) / (edge - 1)


@pytest.mark.parametrize("name", ["reach:ramp", "reach:bump", "reach:rampx"])
@pytest.mark.parametrize("edge", [6, 10])
def test_rewards_cell_by_cell(name, edge):
    dynamics = ReachDynamics(ReachConfig(name, edge=edge))
    for x, y in product(range(-2 * edge, 2 * edge + 1), repeat=2):
        assert dynamics.pay((np.float64(x), np.float64(y))) == pytest.approx(
            reward_by_hand(name, x, y, edge)
        )


@pytest.mark.parametrize(
    ("name", "target", "best"),
    [("reach:ramp", (9, 4), 12.5), ("reach:bump", (4, 0), 27.0), ("reach:rampx", (-3, 0), 16.8)],
)
def test_the_reference_score_is_what_the_best_policy_gets(name, target, best):
    """Reference section 2.8: 12.5 and "about 27"; walking off the ramp gives -17.5."""
    env = Reach(ReachConfig(name), 0)
    assert env.spec.reference_score == pytest.approx(best)
    row, total, place = env.reset(), 0.0, np.zeros(2)
    while not row.is_last:
        row = env.step(np.array(MOVES.index(tuple(np.sign(target - place).astype(int)))))
        place = np.rint(row.obs["vector"][0] * 10)
        total += row.reward.item()
    assert total == pytest.approx(best, abs=1e-5)


def test_walking_off_is_bad():
    rows = play(Reach(ReachConfig(), 0), [RIGHT] * 30)
    assert sum(row.reward.item() for row in rows) == pytest.approx(2.5 - 20)


@pytest.mark.parametrize("config", CONFIGS[:3])
def test_random_play_scores_as_the_spec_says(config):
    env = make(config, 0)
    returns, total = [], 0.0
    for row in RandomPlay(env, seed=1).rows(31 * 400):
        total += row.reward.item()
        if row.is_last:
            returns.append(total)
            total = 0.0
    error = np.std(returns) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(env.spec.random_score, abs=4 * error)
    assert error < 0.2


@pytest.mark.parametrize(("half_width", "edge"), [(0, 10), (2, 12), (3, 6)])
def test_the_edge_of_reach_is_the_ring_at_distance_k(half_width, edge):
    """Breadth first by the environment's own rows: new at the last of K - R0 steps are m = K."""
    env, steps = Reach(ReachConfig(half_width=half_width, edge=edge), 0), edge - half_width
    start = range(-half_width, half_width + 1)
    seen, frontier = set(), set(product(start, start))
    for _ in range(steps):
        seen |= frontier
        reached = set()
        for place, action in product(frontier, range(9)):
            env.set_state({**env.get_state(), "place": np.array(place, float), "steps": 0})
            row = env.step(np.array(action))
            reached.add(tuple(np.rint(row.obs["vector"][0] * 10).astype(int)))
        frontier = reached
    cells = range(-edge, edge + 1)
    ring = {cell for cell in product(cells, cells) if max(map(abs, cell)) == edge}
    assert frontier - seen == ring
    assert max(max(map(abs, cell)) for cell in seen) == edge - 1


def test_starts_fill_the_square():
    env = Reach(ReachConfig(half_width=1), 0)
    starts = {tuple(np.rint(env.reset().obs["vector"][0] * 10)) for _ in range(200)}
    assert starts == set(product((-1, 0, 1), repeat=2))


def test_the_picture_shows_the_place_up_to_the_walls():
    env = Reach(ReachConfig(edge=3, max_steps=99, observation="pixels"), 0)
    assert env.spec.obs["planes"].shape == (13, 13, 1)
    for row, x in zip(play(env, [RIGHT] * 8), [0, 1, 2, 3, 4, 5, 6, 6, 6], strict=True):
        planes = row.obs["planes"][0, ..., 0]
        assert (planes.all(1).argmax() - 6, planes.all(0).argmax() - 6) == (x, 0)
        assert planes.sum() == 2 * 13 - 1


@pytest.mark.parametrize("config", CONFIGS)
def test_numpy_and_torch_give_the_same(config):
    random = np.random.default_rng(0)
    dynamics = ReachDynamics(config)
    place = tuple(random.uniform(-20, 20, (2, 500)).round())
    action = random.integers(0, 9, 500)
    if not dynamics.discrete:
        action = tuple(random.normal(size=(2, 500)))
    arrived, reward, _ = dynamics.step(place, action)
    tensors = tuple(map(torch.from_numpy, place))
    moves = torch.from_numpy(action) if dynamics.discrete else tuple(map(torch.from_numpy, action))
    arrived_too, reward_too, _ = dynamics.step(tensors, moves)
    assert reward_too.numpy() == pytest.approx(reward, abs=1e-7)
    assert np.array_equal(arrived, torch.stack(arrived_too).numpy())
    back = dynamics.state(dynamics.observe(arrived_too))
    assert torch.allclose(torch.stack(back), torch.stack(arrived_too))


def test_the_plane_moves_by_at_most_one():
    env = ReachPlane(ReachPlaneConfig(half_width=0), 0)
    rows = play(env, [(3.0, -0.25)] * 12)
    assert rows[3].obs["vector"][0] == pytest.approx([0.3, -0.075])
    assert rows[12].reward.item() == pytest.approx(0.5)  # at 11, the last place within reach
    assert env.step(np.zeros(2)).reward.item() == -1


def test_the_plane_starts_anywhere_in_the_square():
    env = ReachPlane(ReachPlaneConfig(), 0)
    starts = np.stack([env.reset().obs["vector"][0] for _ in range(500)]) * 10
    assert (np.abs(starts) <= 2).all()
    assert np.abs(starts.mean(0)).max() < 0.2
    assert starts.std(0) == pytest.approx(4 / np.sqrt(12), rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reach:ramp", {"edge": 1}, "edge is 1, but it must be at least 2"),
        ("reach:bump", {"edge": 5}, "edge is 5, but it must be at least 6"),
        ("reach:ramp", {"half_width": 10}, "half_width is 10, but it must be from 0 to below edge"),
        ("reach:ramp", {"observation": "image"}, "must be one of vector, pixels"),
        ("reach:plane", {"max_steps": 0}, "max_steps is 0, but it must be at least 1"),
    ],
)
def test_a_bad_option_is_named(name, options, message):
    with pytest.raises(UserError, match=message):
        type(config_for(name))(name, **options)


def test_names():
    assert config_for("reach:RampX").name == "reach:rampx"
    assert config_for("reach:Plane") == ReachPlaneConfig()
    for kind, name in ((ReachConfig, "reach:plane"), (ReachPlaneConfig, "reach:ramp")):
        with pytest.raises(UserError, match=f"name is {name}, but it must be"):
            kind(name)
    with pytest.raises(UserError, match="'plan'; did you mean 'reach:plane'"):
        config_for("reach:plan")
