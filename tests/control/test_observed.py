"""World models whose state is the observation: what they hand on, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from worldmodels.backbones.base import Stratified
from worldmodels.backbones.configs import GRUConfig, RSSMConfig
from worldmodels.control.options import ObservationConfig
from worldmodels.envs.registry import make
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.observed import Observation
from worldmodels.presets import load_config

SPEC = EnvSpec(
    "two",
    {"a": ObsSpec((2,), "vector"), "b": ObsSpec((3,), "vector")},
    ActionSpec("continuous", 2),
)


def test_latents_are_the_rows(make_batch, crossing):
    batch = crossing(make_batch(SPEC, 4, 4, obs={}))
    batch.obs = {"a": torch.randn(4, 4, 2), "b": torch.randn(4, 4, 3)}
    rows = torch.tensor([[1, 2], [0, 1], [2, 3], [1, 2]])
    losses, latents = Observation(SPEC, 0.9)(batch, Stratified(rows))
    assert losses == {}
    vector = torch.cat([batch.obs["a"], batch.obs["b"]], -1)
    assert torch.equal(latents.feature, vector)
    places = [(1, 0), (2, 0), (0, 1), (1, 1), (2, 2), (3, 2), (1, 3), (2, 3)]
    assert [tuple(pair) for pair in latents.start_index.tolist()] == places
    dead = {(1, 2), (2, 1), (2, 3)}  # terminal, lost life, not seen
    assert latents.start_weight.tolist() == [float(place not in dead) for place in places]
    for i, (b, t) in enumerate(places):
        assert torch.equal(latents.start["vector"][i], vector[b, t])
        assert latents.start["reward"][i] == batch.reward[b, t]
        expected = 0.0 if batch.is_terminal[b, t] else 0.9
        assert float(latents.start["cont"][i]) == pytest.approx(expected)
    assert torch.equal(latents.last["vector"], vector[:, -1])


def test_a_reading_is_vector_reward_and_continuation():
    model = Observation(SPEC, 0.9)
    carry = model._carry(torch.randn(4, 5), torch.arange(4.0), 0.5)
    reading = model.reading(carry)
    assert torch.equal(reading[:, : model.feature_size], model.feature(carry))
    prediction = model.predict(reading.view(2, 2, 7))
    assert prediction.reward.tolist() == [[0, 1], [2, 3]]
    assert prediction.cont.unique().tolist() == [0.5]


def test_acting_is_looking():
    model = Observation(SPEC, 0.9)
    obs = {"b": torch.randn(2, 3), "a": torch.randn(2, 2)}
    carry = model.observe_step(
        model.initial(2), torch.zeros(2, 2), obs, torch.zeros(2, dtype=torch.bool)
    )
    assert torch.equal(model.feature(carry), torch.cat([obs["a"], obs["b"]], 1))
    assert {k: tuple(v.shape[1:]) for k, v in carry.items()} == {
        name: leaf.shape for name, leaf in model.carry_spec().items()
    }


def test_burnin_rows_are_left_out(make_batch):
    batch = make_batch(SPEC, 2, 5, obs={"a": torch.randn(2, 5, 2)}, burnin=2)
    rest = Observation(SPEC, 0.9).warm_up(batch)
    assert (rest.burnin, rest.reward.shape) == (0, (2, 3))
    assert torch.equal(rest.obs["a"], batch.obs["a"][:, 2:])


@pytest.mark.parametrize("preset", ["sac", "ravl-mbpo"])
def test_what_does_not_fit_is_refused(preset, small, make_spec):
    config = small(preset)
    with pytest.raises(UserError, match=r"reads vectors, and test shows image \(image\)"):
        build_models(config, make_spec("vector", "image", action="continuous"))
    with pytest.raises(UserError, match="no sequence backbone, so --backbone"):
        build_models(replace(config, backbone=GRUConfig()), SPEC)
    with pytest.raises(UserError, match="sac needs continuous actions, and test has 3 choices"):
        build_models(config, make_spec("vector"))


def test_a_preset_sizes_no_backbone_that_is_not_there():
    """`--preset small mbpo`: nobody asked for one."""
    config = load_config("gym:Pendulum-v1", ["small", "mbpo"])
    build_models(config, SPEC)
    assert config.backbone == RSSMConfig()
    assert load_config("gym:Pendulum-v1", ["small"]).backbone != RSSMConfig()


def test_known_dynamics_have_no_backbone_and_learn_nothing():
    config = load_config("reach:ramp")
    spec = make(config.env, 0).spec
    build_models(config, spec)
    with pytest.raises(UserError, match="name known has no sequence backbone"):
        build_models(replace(config, backbone=GRUConfig()), spec)
    with pytest.raises(UserError, match="known learns nothing, so model_updates is 0"):
        build_models(replace(config, model_updates=3), spec)


def test_an_observation_imagines_nothing(small):
    config = replace(small("ravl-mbpo"), world_model=ObservationConfig())
    with pytest.raises(UserError, match="imagination_length and model_updates are 0"):
        build_models(config, SPEC)
    config = replace(small("sac"), model_updates=5)
    with pytest.raises(UserError, match="imagination_length and model_updates are 0"):
        build_models(config, SPEC)
