"""Gymnasium ids: spaces in and out, ends, errors, saved states."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodels.envs.configs import GymConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.gym import Gym, _pickles_exactly
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.spaces import read_action_space, read_observation_space
from worldmodels.envs.testing import check_env
from worldmodels.envs.vector import make_vec

INF = np.inf


class Sampled(gymnasium.Env):
    """Observations sampled from its space; keeps the actions it is given."""

    fails_at = -1

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.given, self.steps = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.fails_at:
            raise ZeroDivisionError("the wheel came off")
        assert self.action_space.contains(action), action
        self.given.append(action)
        return self.observation_space.sample(), 0.5, self.steps % 7 == 0, False, {}


class Lossy(Sampled):
    """A pickled copy forgets how far the episode is."""

    def __getstate__(self):
        return {**self.__dict__, "steps": 0}


@pytest.fixture
def registered():
    """Registers `Sampled` with given spaces; returns its config."""

    def register(obs, action=None, make_env: Any = Sampled, **options):
        action = spaces.Discrete(3) if action is None else action
        kwargs = {"observation_space": obs, "action_space": action}
        gymnasium.register("Sampled-v0", entry_point=make_env, kwargs=kwargs)
        return GymConfig("gym:Sampled-v0", **options)

    yield register
    gymnasium.registry.pop("Sampled-v0", None)
    _pickles_exactly.cache_clear()  # the next test gives the same id another environment
    Sampled.fails_at = -1


IMAGE = spaces.Box(0, 255, (84, 80, 3), np.uint8)
BOOLEAN = spaces.Box(0, 1, (10, 10, 6), np.bool_)  # pyright: ignore (its stub forgets bool)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (IMAGE, {"image": ("image", (64, 64, 3))}),
        (spaces.Box(0, 255, (64, 64, 1), np.uint8), {"image": ("image", (64, 64, 1))}),
        (spaces.Box(0, 255, (50, 40), np.uint8), {"image": ("image", (64, 64, 1))}),
        (BOOLEAN, {"planes": ("planes", (10, 10, 6))}),
        (spaces.MultiBinary((5, 5, 2)), {"planes": ("planes", (5, 5, 2))}),
        (spaces.Box(-INF, INF, (4,), np.float64), {"vector": ("vector", (4,))}),
        (spaces.Box(-1, 1, (2, 3), np.float32), {"vector": ("vector", (6,))}),
        (spaces.Box(0, 255, (128,), np.uint8), {"vector": ("vector", (128,))}),
        (spaces.Discrete(5, start=-2), {"vector": ("vector", (5,))}),
        (spaces.MultiDiscrete([3, 4], start=[1, 0]), {"vector": ("vector", (7,))}),
        (spaces.MultiBinary(6), {"vector": ("vector", (6,))}),
        (
            spaces.Dict({"eye": IMAGE, "arm": spaces.Box(-1, 1, (2,)), "goal": spaces.Discrete(3)}),
            {"eye": ("image", (64, 64, 3)), "arm": ("vector", (2,)), "goal": ("vector", (3,))},
        ),
    ],
    ids=str,
)
def test_supported_observations(registered, space, expected):
    config = registered(space)
    env = Gym(config, 0)
    assert {key: (obs.kind, obs.shape) for key, obs in env.spec.obs.items()} == expected
    assert "state after is_last" in check_env(lambda seed: Gym(config, seed), steps=30)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(5),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(0, 255, (3, 84, 84), np.uint8),
        spaces.Box(0, 1, (8, 8, 3), np.float32),
        spaces.Box(0, 1, (2, 8, 8, 3), np.float32),
    ],
    ids=str,
)
def test_other_observations_are_named_in_one_sentence(registered, space):
    with pytest.raises(UserError) as info:
        Gym(registered(space), 0)
    message = str(info.value)
    assert message.startswith("gym:Sampled-v0: observation space")
    assert "is not supported; supported are uint8 images" in message
    assert "\n" not in message
    if isinstance(space, spaces.Dict):
        assert "observation space 'a' Dict" in message


def test_values_of_one_hots_and_images():
    _, read = read_observation_space(spaces.MultiDiscrete([3, 4], start=[1, 0]), "x", 64)
    assert read(np.array([3, 1]))["vector"].tolist() == [0, 0, 1, 0, 1, 0, 0]
    _, read = read_observation_space(spaces.Discrete(3, start=5), "x", 64)
    assert read(np.int64(6))["vector"].tolist() == [0, 1, 0]
    specs, read = read_observation_space(IMAGE, "x", 0)
    image = IMAGE.sample()
    assert specs["image"].shape == (84, 80, 3)
    assert (read(image)["image"] == image).all()
    _, read = read_observation_space(IMAGE, "x", 16)
    assert abs(read(image)["image"].mean() - image.mean()) < 2


def test_discrete_actions_with_a_start(registered):
    env = Gym(registered(spaces.Discrete(2), spaces.Discrete(3, start=-1)), 0)
    env.reset()
    for action in range(3):
        env.step(np.array(action))
    unwrapped: Any = env._env.unwrapped
    assert unwrapped.given == [-1, 0, 1]


def test_box_actions_are_scaled_to_their_bounds():
    box = spaces.Box(np.array([[-2, 0]], np.float32), np.array([[2, 10]], np.float32))
    spec, scale = read_action_space(box, "x")
    assert (spec.kind, spec.size) == ("continuous", 2)
    assert scale(np.array([0, 0], np.float32)).tolist() == [[0, 5]]
    assert scale(np.array([-1, 1], np.float32)).tolist() == [[-2, 10]]
    assert scale(np.array([-7, 7], np.float32)).tolist() == [[-2, 10]]
    uneven = spaces.Box(np.float32(-0.1), np.float32(0.7), (1,))
    _, scale = read_action_space(uneven, "x")
    assert all(uneven.contains(scale(np.array([unit]))) for unit in np.linspace(-1, 1, 101))


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (spaces.Box(-INF, INF, (2,)), "has no finite bounds"),
        (spaces.Box(0, 5, (2,), np.int64), "supported are Discrete and bounded"),
        (spaces.MultiDiscrete([2, 2]), "supported are Discrete and bounded"),
        (spaces.Tuple([spaces.Discrete(2)]), "supported are Discrete and bounded"),
    ],
    ids=str,
)
def test_other_actions_are_named_in_one_sentence(registered, space, reason):
    with pytest.raises(UserError, match=f"gym:Sampled-v0: action space .*{reason}"):
        Gym(registered(spaces.Discrete(2), space), 0)


@pytest.mark.parametrize("name", ["gym:CartPole-v1", "gym:Pendulum-v1", "gym:FrozenLake-v1"])
def test_real_ids_keep_every_law(name):
    assert "state in mid-episode" in check_env(lambda seed: make(config_for(name), seed), steps=250)


def test_time_limits_truncate():
    env = Gym(GymConfig("gym:Pendulum-v1"), 0)
    rows = RandomPlay(env, seed=0).rows(202)
    assert [t for t, row in enumerate(rows) if row.is_last] == [200]
    assert not any(row.is_terminal for row in rows)
    rows = RandomPlay(Gym(GymConfig("gym:Pendulum-v1", max_steps=7), 0), seed=0).rows(9)
    assert [t for t, row in enumerate(rows) if row.is_last] == [7]
    rows = RandomPlay(Gym(GymConfig("gym:CartPole-v1"), 0), seed=0).rows(100)
    assert any(row.is_terminal for row in rows)


def test_episodes_of_one_seed_differ():
    env = Gym(GymConfig("gym:CartPole-v1"), 0)
    first, second = env.reset(), env.reset()
    assert (first.obs["vector"] != second.obs["vector"]).any()


def test_a_pickle_that_forgets_is_not_used(registered):
    env = Gym(registered(spaces.Discrete(3), make_env=Lossy), 0)
    env.reset()
    assert env.get_state() is None
    vec = make_vec(GymConfig("gym:Sampled-v0"), 2, seed=0)
    assert vec.set_state(vec.get_state()) == [0, 1]


def test_a_saved_state_is_plain_bytes():
    env = Gym(GymConfig("gym:CartPole-v1"), 0)
    env.reset()
    state = env.get_state()
    assert state is not None
    assert isinstance(state["env"], bytes)
    other = Gym(GymConfig("gym:CartPole-v1"), 5)
    other.set_state(pickle.loads(pickle.dumps(state)))
    assert (other.step(np.array(1)).obs["vector"] == env.step(np.array(1)).obs["vector"]).all()


def test_an_error_of_the_environment_names_it_and_the_step(registered):
    Sampled.fails_at = 4
    vec = make_vec(registered(spaces.Discrete(2)), 2, seed=0)
    for _ in range(4):
        vec.step(np.zeros(2))
    with pytest.raises(UserError) as info:
        vec.step(np.zeros(2))
    assert str(info.value).startswith(
        "environment 0 of 2: gym:Sampled-v0 raised ZeroDivisionError at step 4 "
        "of its episode: the wheel came off"
    )
    assert isinstance(info.value.__cause__, UserError)
    assert isinstance(info.value.__cause__.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gym:CartPol-v1",
            "environment 'CartPol-v1': .*Did you mean: `CartPole`",
        ),
        ("gym:CartPole-v9", "unknown Gymnasium environment 'CartPole-v9': .*v1"),
        ("gym:no_such_package:Foo-v0", "unknown Gymnasium environment .*no_such_package"),
        ("gym:Blackjack-v1", "gym:Blackjack-v1: observation space Tuple"),
    ],
)
def test_ids_that_cannot_be_made(name, message):
    with pytest.raises(UserError, match=message) as info:
        make(config_for(name), 0)
    assert "\n" not in str(info.value)
