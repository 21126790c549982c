"""The world model's losses, row by row, and what it hands to imagination."""

import inspect
import math
from dataclasses import replace
from typing import cast

import pytest
import torch

from worldmodels.distributions import TwoHot
from worldmodels.learner import build_models
from worldmodels.losses import balanced_kl
from worldmodels.world_model import WorldModel, all_rows


@pytest.fixture
def build(make_config, make_spec):
    def make(*keys, backbone="rssm", posterior="hx", action="discrete") -> WorldModel:
        config, spec = make_config(backbone, posterior), make_spec(*keys, action=action)
        return cast(WorldModel, build_models(config, spec)[0])

    return make


def test_signatures():
    """The sockets of the design: names that other world models must offer too."""

    def names(function):
        return list(inspect.signature(function).parameters)[1:]

    assert names(WorldModel.forward) == ["batch", "emit"]
    assert names(WorldModel.observe_step) == ["carry", "prev_action", "obs", "reset", "generator"]
    assert names(WorldModel.imagine_step) == ["carry", "action", "generator"]
    for step in (WorldModel.observe_step, WorldModel.imagine_step):
        generator = inspect.signature(step).parameters["generator"]
        assert generator.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("posterior", ["hx", "x"])
@pytest.mark.parametrize("backbone", ["rssm", "gru", "hybrid"])
def test_losses_are_those_of_the_latents(backbone, posterior, build, make_spec, make_batch):
    """Each loss [B, T] from the returned feature and logits, by the formula."""
    model = build("image", "vector", backbone=backbone, posterior=posterior)
    torch.nn.init.normal_(model.reward.output.weight)
    terminal = torch.zeros(2, 6, dtype=torch.bool)
    terminal[1, 4] = True
    batch = make_batch(make_spec("image", "vector"), 2, 6, is_terminal=terminal)
    losses, latents = model(batch, "all")
    assert {name: tuple(x.shape) for name, x in losses.items()} == dict.fromkeys(
        ("dyn", "rep", "reward", "continue", "decode/image", "decode/vector"), (2, 6)
    )
    assert losses.keys() == model.weights().keys()
    dyn, rep = balanced_kl(latents.post_logits, latents.prior_logits, free_nats=0.0)
    torch.testing.assert_close(losses["dyn"], dyn)
    torch.testing.assert_close(losses["rep"], rep)
    weights = TwoHot.encode(batch.reward)
    cross = -(weights * model.reward(latents.feature).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(losses["reward"], cross, rtol=1e-4, atol=1e-5)
    # The continue head learns (1 - terminal) (1 - 1 / horizon), here 0.9, as a soft label.
    p = torch.sigmoid(model.cont(latents.feature).squeeze(-1)).double()
    label = (1 - terminal.double()) * 0.9
    bce = -(label * p.log() + (1 - label) * (1 - p).log())
    torch.testing.assert_close(losses["continue"].double(), bce, rtol=1e-4, atol=1e-5)


def test_published_weights(build):
    weights = build("image", "planes").weights()
    assert weights == {
        "dyn": 1.0,
        "rep": 0.1,
        "reward": 1.0,
        "continue": 1.0,
        "decode/image": 1.0,
        "decode/planes": 1.0,
    }


def test_latents(build, make_spec, make_batch):
    model = build("vector")
    terminal = torch.zeros(2, 6, dtype=torch.bool)
    terminal[0, 3] = True
    last = terminal.clone()
    last[1, 2] = True  # a time limit: a start like any other
    batch = make_batch(make_spec("vector"), 2, 6, is_terminal=terminal, is_last=last)
    _, latents = model(batch, "all")
    assert latents.feature.shape == (2, 6, 16 + 3 * 4)
    assert latents.feature.requires_grad
    assert not any(leaf.requires_grad for leaf in latents.start.values())
    assert not any(leaf.requires_grad for leaf in latents.last.values())
    assert latents.start_index.tolist() == [[b, t] for b in range(2) for t in range(6)]
    assert torch.equal(model.feature(latents.start), latents.feature.detach().flatten(0, 1))
    assert torch.equal(model.feature(latents.last), latents.feature.detach()[:, -1])
    expected = torch.ones(12)
    expected[3] = 0
    assert torch.equal(latents.start_weight, expected)
    index = torch.tensor([[1, 5], [0, 3], [0, 0]])
    _, latents = model(batch, index)
    assert torch.equal(
        model.feature(latents.start), latents.feature.detach()[index[:, 0], index[:, 1]]
    )
    assert latents.start_weight.tolist() == [1, 0, 1]
    assert latents.start_index.tolist() == index.tolist()


def test_all_rows_is_batch_major():
    assert all_rows(2, 3, torch.device("cpu")).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
    ]


def test_frames_that_are_not_true_bear_no_image_loss(build, make_spec, make_batch):
    """obs_valid masks reconstruction only; reward, continue and KL learn from the row."""
    model = build("image", "vector")
    spec = make_spec("image", "vector")
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4] = False
    batch = make_batch(spec, 2, 6, obs_valid=valid)
    torch.manual_seed(2)
    masked, _ = model(batch, "all")
    torch.manual_seed(2)
    whole, _ = model(replace(batch, obs_valid=torch.ones_like(valid)), "all")
    for name, loss in masked.items():
        if name.startswith("decode/"):
            assert loss[1, 4] == 0
            assert whole[name][1, 4] > 0
            assert torch.equal(loss[valid], whole[name][valid])
        else:
            assert torch.equal(loss, whole[name])


def test_value_flags_leave_the_state_alone(build, make_spec, make_batch):
    """A lost life (terminal, not first) keeps memory; only `reset` cuts it."""
    model = build("vector")
    batch = make_batch(make_spec("vector"), 2, 6)
    yes = torch.zeros(2, 6, dtype=torch.bool)
    yes[:, 3] = True
    features = []
    for changed in (
        batch,
        replace(batch, is_terminal=yes, is_last=yes, is_first=yes),
        replace(batch, reset=batch.reset | yes),
    ):
        torch.manual_seed(4)
        features.append(model(changed, "all")[1].feature)
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0][:, :3], features[2][:, :3])
    assert not torch.equal(features[0][:, 3, :16], features[2][:, 3, :16])


def test_initial_predictions(build, make_spec, make_batch):
    """Zeroed output layer: every reward is exactly 0; continue is a probability near one half."""
    model = build("vector")
    _, latents = model(make_batch(make_spec("vector")), "all")
    prediction = model.predict(latents.feature)
    assert (prediction.reward == 0).all()
    assert ((prediction.cont > 0) & (prediction.cont < 1)).all()
    # An untrained head's loss is that of the uniform distribution over 255 bins.
    losses, _ = model(make_batch(make_spec("vector")), "all")
    assert losses["reward"].flatten().tolist() == pytest.approx([math.log(255)] * 12, rel=1e-5)


def test_predict_reads_the_heads(build):
    model = build("vector")
    torch.nn.init.normal_(model.reward.output.weight)
    feature = torch.randn(4, 3, model.feature_size)
    prediction = model.predict(feature)
    reward = TwoHot.from_logits(model.reward(feature)).mean()
    assert torch.equal(prediction.reward, reward)
    assert reward.shape == prediction.cont.shape == (4, 3)
    torch.testing.assert_close(prediction.cont, torch.sigmoid(model.cont(feature)[..., 0]))


@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_acting_equals_learning(action, build, make_spec, make_batch):
    """observe_step over a window gives the h of `forward`, on the same latents, row for row."""
    model = build("image", "vector", action=action)
    batch = make_batch(make_spec("image", "vector", action=action), 2, 5)
    torch.manual_seed(1)
    _, latents = model(batch, "all")
    torch.manual_seed(1)
    carry = model.initial(2)
    for t in range(5):
        obs = {key: leaf[:, t] for key, leaf in batch.obs.items()}
        carry = model.observe_step(carry, batch.prev_action[:, t], obs, batch.reset[:, t])
        expected = latents.feature[:, t].detach()
        torch.testing.assert_close(model.feature(carry).detach(), expected, rtol=1e-4, atol=1e-5)


def test_acting_with_a_generator_leaves_the_global_stream_alone(build, make_spec, make_batch):
    model, batch = build("vector"), make_batch(make_spec("vector"))
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    obs = {key: leaf[:, 0] for key, leaf in batch.obs.items()}
    reset, action = batch.reset[:, 0], batch.prev_action[:, 0]
    carry = model.observe_step(model.initial(2), action, obs, reset, generator=generator)
    model.imagine_step(carry, action, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_decode(build):
    model = build("image", "planes", "vector")
    carry = model.imagine_step(model.initial(4), torch.eye(3)[[0, 1, 2, 0]])
    decoded = model.decode(carry)
    assert {key: tuple(x.shape) for key, x in decoded.items()} == {
        "image": (4, 16, 32, 3),
        "planes": (4, 5, 4, 2),
        "vector": (4, 3),
    }
    assert 0 <= decoded["image"].min() <= decoded["image"].max() <= 1


def test_an_observation_named_like_a_loss_hides_none(make_spec, make_config, make_batch):
    names = ("reward", "a.b", "values")
    vector = make_spec("vector")
    spec = replace(vector, obs=dict.fromkeys(names, vector.obs["vector"]))
    model, _ = build_models(make_config(), spec)
    batch = make_batch(vector)
    losses, _ = model(replace(batch, obs=dict.fromkeys(names, batch.obs["vector"])), "all")
    assert losses.keys() == model.weights().keys()
    assert {"reward", "decode/reward", "decode/a.b", "decode/values"} <= losses.keys()
