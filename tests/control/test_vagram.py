"""VaGraM's weights against a float64 loop, what they do to the model's loss, and who may ask."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldmodels.control.ensemble import EnsembleDynamics, is_held_out
from worldmodels.control.gaussians import negative_log_likelihood
from worldmodels.control.options import EnsembleConfig
from worldmodels.control.vagram import LONGEST, has_slope, value_weights
from worldmodels.errors import UserError
from worldmodels.learner import Learner, build_models
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric

K, S = 40, 3
SHARE = 0.3


def critic(state: Tensor) -> Tensor:
    """Any smooth V(s) whose slope differs by row and number: [K, 3] -> [K]."""
    return (2 * state[:, 0]).sin() + 0.1 * state[:, 1] * state[:, 2] ** 2


def slopes(state: np.ndarray) -> np.ndarray:
    """The gradient of `critic`, by hand."""
    a, b, c = state.T
    return np.stack([2 * np.cos(2 * a), 0.1 * c**2, 0.2 * b * c], 1)


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """States, deviations, and which rows count."""
    return torch.randn(K, S).double(), torch.tensor([0.5, 2.0, 7.0]).double(), torch.rand(K) > 0.3


def test_weights_are_those_of_a_loop():
    state, deviation, counts = rows()
    found = value_weights(critic, state, deviation, counts, SHARE)
    slope = slopes(state.numpy()) * deviation.numpy()
    norms = [float(np.sqrt((row**2).sum())) for row in slope]
    limit = np.quantile([n for n, c in zip(norms, counts, strict=True) if c], LONGEST)
    assert max(norms) > limit, "nothing is cut: choose other rows"
    expected = np.zeros((K, S))
    for k in range(K):
        for d in range(S):
            expected[k, d] = (slope[k, d] * min(1.0, limit / norms[k])) ** 2
    mean = np.mean([expected[k, d] for k in range(K) for d in range(S) if counts[k]])
    expected = 1 - SHARE + SHARE * expected / mean
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert float(found[counts].mean()) == pytest.approx(1.0)
    assert not found.requires_grad


def test_rows_that_do_not_count_change_nothing():
    state, deviation, counts = rows()
    found = value_weights(critic, state, deviation, counts, 1.0)
    moved = torch.where(counts[:, None], state, 100 * state)
    again = value_weights(critic, moved, deviation, counts, 1.0)
    assert torch.equal(found[counts], again[counts])
    assert not torch.equal(found[~counts], again[~counts])


def test_units_change_nothing():
    """A number counted in tenths, with a deviation ten times as large, to a critic that knows."""
    state, deviation, counts = rows()
    unit = torch.tensor([1.0, 10.0, 1.0]).double()
    found = value_weights(critic, state, deviation, counts, 1.0)
    again = value_weights(lambda s: critic(s / unit), state * unit, deviation * unit, counts, 1.0)
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("flat", ["everywhere", "no row counts"])
def test_without_a_slope_all_count_alike(flat):
    state, deviation, counts = rows()
    if flat == "everywhere":
        found = value_weights(lambda s: 0 * s.sum(1), state, deviation, counts, SHARE)
    else:
        found = value_weights(critic, state, deviation, torch.zeros_like(counts), SHARE)
    assert torch.equal(found, torch.ones_like(found))


def test_a_share_of_nothing_is_the_plain_loss_bit_for_bit():
    state, deviation, counts = (x.float() if x.is_floating_point() else x for x in rows())
    weight = value_weights(critic, state, deviation, counts, 0.0)
    three = [torch.randn(2, K, S) for _ in range(3)]
    plain = negative_log_likelihood(three[0], three[1], three[2])
    assert torch.equal(negative_log_likelihood(three[0], three[1], three[2], weight), plain)


@pytest.fixture
def spec(make_spec):
    return make_spec("vector", action="continuous", size=1)


def build(small, spec, share: float, **options: Any) -> Learner:
    """An MBPO learner whose networks are the same whatever the share."""
    torch.manual_seed(3)
    config = small("mbpo", world_model={"vagram": share, "termination": "never"}, **options)
    learner = Learner(config, spec, build_fabric("cpu", "32"))
    for parameter in learner.actor_critic.parameters():  # outputs near zero have no slope
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5)
    return learner


def gradient(learner: Learner, batch) -> Tensor:
    """What one update's gradient makes of the model's networks, side by side."""
    torch.manual_seed(4)
    learner.gradients(batch)
    return torch.cat([p.grad.flatten() for p in learner.world_model.parameters()])  # type: ignore


def test_the_model_learns_by_the_weighted_likelihood(small, spec, make_batch, monkeypatch):
    """The loss of every transition is the likelihood of each output times its own weight."""
    batch = make_batch(spec, 16, 2, index=640 + torch.arange(32).view(16, 2))
    learner = build(small, spec, SHARE)
    monkeypatch.setattr(torch, "poisson", lambda rate: rate)
    losses, _ = learner.world_model(batch, "all")
    model: Any = learner.world_model
    state, following = batch.obs["vector"].unbind(1)
    action = batch.prev_action[:, 1]
    learned = losses["dynamics"] != 0
    assert 0 < int(learned.sum()) < 16
    deviation = torch.cat([state, action], 1).std(0, correction=0)[:3]
    weight = value_weights(learner.actor_critic.value, following, deviation, learned, SHARE)
    assert float(weight.max()) > 1.1, "the weights are flat: nothing is tested"
    mean, log_variance = model.networks(model.standardiser(torch.cat([state, action], 1)))
    target = torch.cat([following - state, batch.reward[:, 1:]], 1)
    terms = log_variance + (target - mean).square() * (-log_variance).exp()
    terms[..., :3] *= weight  # the reward's weight is 1
    expected = terms.mean(-1).sum(0)[learned].sum() / learned.sum()
    found = losses["dynamics"].mean().item()
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_only_the_model_feels_it(small, spec, make_batch):
    """The critic lends its slope and gets no gradient from the model's loss."""
    batch = make_batch(spec, 16, 2)
    found = {share: gradient(build(small, spec, share), batch) for share in (0.0, SHARE)}
    assert not torch.equal(found[0.0], found[SHARE])
    learner = build(small, spec, SHARE)
    losses, _ = learner.world_model(batch, "all")
    losses["dynamics"].mean().backward()
    assert all(p.grad is None for p in learner.actor_critic.parameters())
    assert not any("value" in name for name in learner.world_model.state_dict())


def test_a_critic_without_slope_is_refused(small, make_spec):
    plain, control = load_config("gym:Pendulum-v1", ["debug"]), small("mbpo")
    model = replace(control.world_model, vagram=0.5)
    config = replace(control, world_model=model, actor_critic=plain.actor_critic)
    with pytest.raises(UserError, match=r"vagram weighs errors by the critic's slope, and this"):
        build_models(config, make_spec("vector", action="continuous", size=1))
    assert not has_slope(lambda s: torch.full((len(s),), torch.nan), 3)


def test_a_model_that_learns_before_the_critic_is_refused(small, spec):
    config = small("mbpo", world_model={"vagram": 0.5}, model_updates=10)
    with pytest.raises(UserError, match=r"vagram asks a critic that learns beside the model"):
        build_models(config, spec)


def test_a_share_above_one_is_refused(small):
    with pytest.raises(UserError, match=r"world_model\.vagram lies between 0 and 1, not at 1\.5"):
        small("mbpo", world_model={"vagram": 1.5})


def test_a_small_model_is_spent_on_what_the_critic_minds(spec, make_batch):
    """Three numbers of equally hard motion, a critic that reads the first: it is learned best."""
    left = {}
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        options: Any = {"members": 2, "elites": 1, "layers": 1, "units": 8, "learning_rate": 1e-2}
        config = EnsembleConfig(vagram=share, termination="never", **options)
        model = EnsembleDynamics(config, spec, 0.9)
        model.heed(lambda state: 3 * state[:, 0])
        optimizer = torch.optim.Adam(model.parameter_groups())
        for update in range(600):
            ids = torch.arange(update * 128, update * 128 + 128).view(64, 2)
            batch = make_batch(spec, 64, 2, index=ids)
            batch.obs["vector"][:, 1] = moved(batch.obs["vector"][:, 0])
            losses, _ = model(batch, "all")
            optimizer.zero_grad()
            losses["dynamics"].mean().backward()
            optimizer.step()
        state = torch.randn(1000, 3)
        mean, _ = model.networks(model.standardiser(torch.cat([state, torch.zeros(1000, 1)], 1)))
        left[share] = (state + mean[..., :3].mean(0) - moved(state)).square().mean(0).detach()
    known = 0.5 * 0.5  # half of the variance of sin(2 s)
    assert float(left[1.0][0]) < known < float(left[0.0].min())
    assert float(left[1.0][1:].min()) > known


@pytest.mark.parametrize(("share", "elite"), [(0.0, 1), (1.0, 0)])
def test_the_elites_are_good_at_what_the_critic_minds(spec, make_batch, share, elite):
    """Member 0 errs by 1 in the number that is not read, member 1 by 0.5 in the one that is."""
    options: Any = {"members": 2, "elites": 1, "layers": 1, "units": 4}
    config = EnsembleConfig(vagram=share, termination="never", **options)
    model = EnsembleDynamics(config, spec, 0.9)
    model.heed(lambda state: state[:, 0].sin())
    last = model.networks.mlp.linears[-1]
    with torch.no_grad():  # both say the same everywhere, with the same deviations
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0, 0, 1], last.bias[1, 0, 0] = 1.0, 0.5
    batch = make_batch(spec, 64, 2, index=torch.arange(128).view(64, 2))
    batch.obs["vector"][:, 1] = batch.obs["vector"][:, 0]
    batch.reward[:] = 0
    losses, _ = model(batch, "all")
    assert model.elites.tolist() == [elite]
    if not share:
        assert losses["held_out"].tolist() == pytest.approx([0.25, 0.0625])
        return
    state, counts = batch.obs["vector"][:, 1], ~is_held_out(batch.index[:, 1], config.held_out)
    deviation = torch.cat([state, batch.prev_action[:, 1]], 1).std(0, correction=0)[:3]
    weight = value_weights(model.value, state, deviation, counts, share)
    mean, log_variance = model.networks(torch.zeros(64, 4))
    fit = negative_log_likelihood(mean, log_variance, torch.zeros(64, 4), with_reward(weight))
    expected = fit[:, ~counts].mean(1)
    torch.testing.assert_close(losses["held_out"], expected)
    torch.testing.assert_close(model.error, 0.01 * expected)


def with_reward(weight: Tensor) -> Tensor:
    """The weights of a state's numbers [K, F] and that of the reward, 1: [K, F + 1]."""
    return torch.cat([weight, torch.ones(len(weight), 1)], 1)


def moved(state: Tensor) -> Tensor:
    """A motion that eight units cannot learn of three numbers: [K, 3]."""
    return state + (2 * state).sin()
