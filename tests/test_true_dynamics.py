"""Known dynamics: what is imagined is what the environment would do, from the rows it should."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from worldmodels.agent import Agent
from worldmodels.backbones.base import Stratified
from worldmodels.config import Config
from worldmodels.envs import registry
from worldmodels.envs.catch import Catch
from worldmodels.envs.known import KnownDynamics
from worldmodels.envs.reach_config import ReachConfig, ReachPlaneConfig
from worldmodels.envs.registry import make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.errors import UserError
from worldmodels.imagination import imagine
from worldmodels.known_options import KnownConfig
from worldmodels.presets import load_config
from worldmodels.trainer import train
from worldmodels.true_dynamics import TrueDynamics


@dataclass(frozen=True)
class StairsConfig:
    name: str = "stairs"


class StairsDynamics(KnownDynamics):
    """A stair climbed by action 1 pays 2 less the stair left; the third ends the episode."""

    def state(self, vector):
        return vector

    def observe(self, state):
        return state

    def step(self, state, action):
        (stair,) = state
        return (stair + action,), (2.0 - stair) * action, 1.0 * (stair + action < 3)


class Stairs:
    Config = StairsConfig

    def __init__(self, config, seed):
        self.dynamics, self.stair = StairsDynamics(), (0.0,)
        obs = {"stair": ObsSpec((1,), "vector")}
        self.spec = EnvSpec(config.name, obs, ActionSpec("discrete", 2))

    def reset(self):
        self.stair = (0.0,)
        return Step.row({"stair": np.array(self.stair, np.float32)}, is_first=True)

    def step(self, action):
        self.stair, reward, goes_on = self.dynamics.step(self.stair, action)
        ends = not goes_on
        return Step.row(
            {"stair": np.array(self.stair, np.float32)}, reward, is_last=ends, is_terminal=ends
        )

    def close(self):
        pass


@pytest.fixture
def stairs(monkeypatch):
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    registry.register("stairs", f"{__name__}:Stairs")
    return StairsConfig()


def model_of(env, horizon=33) -> TrueDynamics:
    config = Config(env=env, world_model=KnownConfig(), horizon=horizon)
    return TrueDynamics.build(config, make(env, 0).spec)


class Script:
    """Gives the actions [M, L, A] one after the other."""

    def __init__(self, actions):
        self.actions, self.action_size = iter(actions.unbind(1)), actions.shape[2]

    def act(self, feature):
        return next(self.actions)


def play(env, count, seed):
    """Rows of random play and the actions between them, as the model reads them."""
    player = RandomPlay(make(env, seed), seed)
    rows, actions = [player.row()], []
    step = player.env.step

    def recorded(action):
        actions.append(action)
        return step(action)

    player.env.step = recorded
    rows += player.rows(count)
    chosen = torch.from_numpy(np.stack(actions))
    if player.env.spec.action.kind == "discrete":
        chosen = torch.nn.functional.one_hot(chosen, player.env.spec.action.size).float()
    return rows, chosen


def batch_of(rows, make_batch, spec):
    """The rows of one stream as a batch [1, T]."""
    fields = ("reward", "is_first", "is_last", "is_terminal")
    given = {
        name: torch.from_numpy(np.stack([getattr(r, name) for r in rows], 1)) for name in fields
    }
    batch = make_batch(spec, 1, len(rows), **given)
    obs = {k: torch.from_numpy(np.stack([r.obs[k] for r in rows], 1)) for k in spec.obs}
    return replace(batch, obs=obs)


@pytest.mark.parametrize(
    "env",
    [
        ReachConfig(half_width=3, edge=6, max_steps=60),
        ReachConfig("reach:rampx", edge=6, max_steps=60),
        ReachConfig("reach:bump", max_steps=60),
        ReachPlaneConfig(max_steps=60),
    ],
)
def test_imagining_the_actions_that_were_played_gives_the_rows_that_came(env, make_batch):
    model = model_of(env, horizon=20)
    rows, actions = play(env, 60, seed=3)
    batch = batch_of(rows, make_batch, make(env, 0).spec)
    _, latents = model(batch, torch.tensor([[0, 0]]))
    rollout = imagine(model, Script(actions.unsqueeze(0)), latents, 60)
    assert torch.allclose(rollout.feature[0, :, :2], batch.obs["vector"][0], atol=1e-5)
    assert (rollout.feature[..., 2] == 1).all()
    assert torch.allclose(rollout.reward[0], batch.reward[0], atol=1e-5)
    assert torch.allclose(rollout.cont, torch.tensor(0.95))
    assert rollout.feature.shape[-1] == model.feature_size == 3


def test_a_terminal_state_ends_the_return(stairs, make_batch):
    model = model_of(stairs, horizon=2)
    rows, _ = play(stairs, 4, seed=0)
    _, latents = model(batch_of(rows, make_batch, make(stairs, 0).spec), torch.tensor([[0, 0]]))
    climb = torch.tensor([[[0.0, 1.0]] * 3])
    rollout = imagine(model, Script(climb), latents, 3)
    assert rollout.feature[0, :, 0].tolist() == [0, 1, 2, 3]
    assert rollout.reward[0].tolist() == [0, 2, 1, 0]
    assert rollout.cont[0].tolist() == [0.5, 0.5, 0.5, 0]


def test_rows_are_the_latents(make_spec, make_batch):
    spec = make_spec("vector")
    terminal = torch.tensor([[False, False, True], [False, False, False]])
    model = TrueDynamics(KnownConfig(), spec, StairsDynamics(), discount=0.5)
    batch = make_batch(spec, 2, 3, is_terminal=terminal)
    losses, latents = model(batch, "all")
    assert losses == model.weights() == {}
    assert torch.equal(latents.feature[..., :3], batch.obs["vector"])
    assert (latents.feature[..., 3] == 1).all()
    assert latents.start_index.tolist() == [[b, t] for b in range(2) for t in range(3)]
    assert latents.start_weight.tolist() == [1, 1, 0, 1, 1, 1]
    reading = model.reading(latents.start).view(2, 3, 6)
    assert torch.equal(reading[..., :4], latents.feature)
    assert torch.equal(model.predict(reading).reward, batch.reward)
    assert torch.equal(model.predict(reading).cont, 0.5 * ~terminal)
    assert torch.equal(latents.last["vector"], batch.obs["vector"][:, -1])
    some = model(batch, Stratified(torch.tensor([[1], [0], [1]])))[1]
    assert some.start_index.tolist() == [[1, 0], [0, 1], [1, 2]]
    assert torch.equal(some.start["reward"], batch.reward[[1, 0, 1], [0, 1, 2]])
    for carry in (latents.start, latents.last, model.initial(2)):
        assert {name: tuple(x.shape[1:]) for name, x in carry.items()} == {
            name: leaf.shape for name, leaf in model.carry_spec().items()
        }


def test_starts_may_be_the_rows_that_open_an_episode(make_spec, make_batch):
    spec = make_spec("vector")
    model = TrueDynamics(KnownConfig(starts="first"), spec, StairsDynamics(), 0.5)
    first = torch.tensor([[True, False, False], [False, False, True]])
    latents = model(make_batch(spec, 2, 3, is_first=first), "all")[1]
    assert len(latents.start_index) == 6
    drawn = {tuple(pair) for _ in range(5) for pair in latents.start_index.tolist()}
    for _ in range(10):
        latents = model(make_batch(spec, 2, 3, is_first=first), "all")[1]
        drawn |= {tuple(pair) for pair in latents.start_index.tolist()}
        assert latents.start_weight.tolist() == [1] * 6
    assert drawn == {(0, 0), (1, 2)}
    none = model(make_batch(spec, 2, 3), "all")[1]  # as many, so that shapes are static
    assert none.start_weight.tolist() == [0] * 6


def test_burnin_rows_are_left_out(make_spec, make_batch):
    spec = make_spec("vector")
    model = TrueDynamics(KnownConfig(), spec, StairsDynamics(), 0.5)
    batch = make_batch(spec, 2, 6, burnin=4)
    rest = model.warm_up(batch)
    assert torch.equal(rest.obs["vector"], batch.obs["vector"][:, 4:])
    assert rest.burnin == 0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Catch.Config(), "dynamics of catch are not known, .* use a learned world model"),
        (ReachConfig(observation="pixels"), "reach:ramp shows planes, .*--env.observation vector"),
    ],
)
def test_where_it_does_not_fit(env, message):
    with pytest.raises(UserError, match=message):
        model_of(env)


def test_the_preset_imagines_from_the_start_distribution_alone():
    """No replayed row may be an input of the critic: 10 steps from the centre end at the edge."""
    for name in ("reach:ramp", "reach:plane"):
        config = load_config(name)
        assert (config.world_model, config.actor_critic.replay_value_weight) == (
            KnownConfig(starts="first"),
            0,
        )
        start, edge = config.env.half_width, config.env.edge
        assert start + config.actor_critic.imagination_length == edge
        assert config.replay.batch_length > config.env.max_steps  # every window opens an episode


def test_it_runs_in_the_ordinary_trainer_and_resumes(tmp_path):
    config = load_config("reach:plane", steps=160, evaluation={"episodes": 2}, device="cpu")
    run = train(config, tmp_path / "run", quiet=True)
    run = train(replace(config, steps=192), run, resume=True, quiet=True)
    agent = Agent.load(run)
    assert agent.step == 192
    action, _ = agent.act({"vector": np.zeros(2, np.float32)})
    assert action.shape == (2,)
