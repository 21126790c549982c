"""The dynamics ensemble: its losses against loops, held-out rows, elites, and imagined steps."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from worldmodels.control import ensemble
from worldmodels.control.ensemble import EnsembleDynamics, is_held_out
from worldmodels.control.options import EnsembleConfig
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError

VALID = [(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 2)]
"""(b, t) of the steps t -> t + 1 of `crossing` that an agent made and saw."""
SHIFTED = 640
"""Row ids start here: some of the valid rows are held out then."""


def build(spec: EnvSpec, **options: Any) -> EnsembleDynamics:
    config = EnsembleConfig(members=3, elites=2, layers=2, units=8, **options)
    model = EnsembleDynamics(config, spec, 0.9)
    for name, parameter in model.named_parameters():
        if "log_variance" not in name:
            torch.nn.init.normal_(parameter, std=0.4)  # zeros would hide faults
    return model


@pytest.fixture
def spec(make_spec):
    return make_spec("vector", action="continuous", size=2)


@pytest.fixture
def batch(spec, make_batch, crossing):
    return crossing(make_batch(spec, 4, 4, index=SHIFTED + torch.arange(16).view(4, 4)))


def test_losses_are_those_of_a_loop(spec, batch, monkeypatch):
    model = build(spec, error_memory=0.75)
    draws = torch.randint(0, 4, (3, 12)).float()
    monkeypatch.setattr(torch, "poisson", lambda rate: draws * rate)
    losses, _ = model(batch, "all")
    steps = [(b, t, b * 3 + t) for b, t in VALID]
    held = [s for s in steps if bool(is_held_out(batch.index[s[0], s[1] + 1], 0.2))]
    learned = [s for s in steps if s not in held]
    assert held, "no row is held out: choose other ids"
    assert learned
    rows = torch.stack(
        [torch.cat([batch.obs["vector"][b, t], batch.prev_action[b, t + 1]]) for b, t, _ in steps]
    ).double()
    shift, scale = rows.mean(0), rows.std(0, correction=0)
    expected, errors, ends = [0.0] * 3, [0.0] * 3, []
    for i in range(3):
        total = sum(float(draws[i, k]) for _, _, k in learned)
        for (b, t, k), x in zip(steps, rows, strict=True):
            seen = batch.obs["vector"]
            x = ((x - shift) / scale).float().expand(3, -1)[:, None]
            mean, log_variance = (y[i, 0].double() for y in model.networks(x))
            target = torch.cat([seen[b, t + 1] - seen[b, t], batch.reward[b, t + 1][None]])
            square = (target.double() - mean).square()
            if (b, t, k) in held:
                errors[i] += float(square.mean().detach()) / len(held)
            else:
                terms = log_variance + square * (-log_variance).exp()
                expected[i] += float(draws[i, k]) / total * float(terms.mean().detach())
    assert model.going_on is not None
    for b, t, _ in learned:
        x = (batch.obs["vector"][b, t + 1] - shift[:3].float()) / scale[:3].float()
        p = torch.sigmoid(model.going_on(x)).item()
        ends.append(-math.log(1 - p if bool(batch.is_terminal[b, t + 1]) else p))
    assert losses["dynamics"].mean().item() == pytest.approx(sum(expected), rel=1e-4)
    assert losses["held_out"].tolist() == pytest.approx(errors, rel=1e-4)
    assert losses["continue"].mean().item() == pytest.approx(sum(ends) / len(ends), rel=1e-4)
    assert losses["log_variance"].item() == pytest.approx(3 * 4 * 10.5)
    assert model.error.tolist() == pytest.approx([0.25 * error for error in errors], rel=1e-4)
    assert losses.keys() == model.weights().keys()
    assert model.weights()["log_variance"] == 0.01
    assert model.weights()["held_out"] == 0.0


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_half_precision_is_for_the_networks_alone(spec, batch, share):
    """Statistics of the inputs keep float32 under autocast, whose products have 8 bits."""
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        model = build(spec, vagram=share)
        model.heed(lambda state: state.square().sum(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses, _ = model(batch, "all")
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        found.append((model.standardiser, model.error))
    assert torch.equal(found[0][0].mean, found[1][0].mean)
    assert torch.equal(found[0][0].variance, found[1][0].variance)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0.05, atol=0)


def test_held_out_rows_teach_nothing(spec, batch):
    """Not a network and not the end of episodes; the rest of the rows does."""
    steps = [(b, t) for b, t in VALID if bool(is_held_out(batch.index[b, t + 1], 0.2))]
    reward, gradients = batch.reward.clone(), []
    for change in (0.0, 5.0):
        torch.manual_seed(0)
        model = build(spec)
        for b, t in steps:
            batch.reward[b, t + 1] = reward[b, t + 1] + change
        losses, _ = model(batch, "all")
        sum(x.mean() for name, x in losses.items() if name != "held_out").backward()  # type: ignore
        gradients.append([p.grad.clone() for p in model.parameters()])  # type: ignore
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert all(bool(g.any()) for g in gradients[0])


def test_a_fifth_is_held_out_whatever_the_ids():
    """Rows of one lane, of every fourth row, of far ids: and the same ones each time."""
    for ids in (torch.arange(50_000), torch.arange(0, 400_000, 8), 2**40 + torch.arange(50_000)):
        found = is_held_out(ids, 0.2)
        assert float(found.float().mean()) == pytest.approx(0.2, abs=0.01)
        runs = (found[1:] & found[:-1]).float().mean()  # neighbours are held out independently
        assert float(runs) == pytest.approx(0.04, abs=0.01)
        assert torch.equal(is_held_out(ids.flip(0), 0.2).flip(0), found)


def test_draws_differ_between_members():
    """Counts are Poisson(1) over what has weight, scaled to a mean of 1 over all K."""
    weight = (torch.arange(4000) % 4 > 0).float()
    counts = ensemble._bootstrap(weight, 3)
    assert counts.shape == (3, 4000)
    assert not counts[:, weight == 0].any()
    assert counts.mean(1).tolist() == pytest.approx([1.0] * 3)
    one = (counts / counts[counts > 0].min()).round()  # a count of 1 is the least above 0
    share = [(one[i][weight > 0] == n).float().mean().item() for i in range(3) for n in range(3)]
    assert share == pytest.approx([math.exp(-1), math.exp(-1), math.exp(-1) / 2] * 3, abs=0.03)
    assert not torch.equal(counts[0], counts[1])


def test_the_elites_have_the_least_error(spec, batch):
    model = build(spec)
    model.error.copy_(torch.tensor([3.0, 1.0, 2.0]))
    with torch.no_grad():  # all members err alike on this batch
        model.networks.mlp.linears[-1].weight.zero_()
        model.networks.mlp.linears[-1].bias.zero_()
    model(batch, "all")
    assert model.elites.tolist() == [1, 2]
    assert model.error.argsort().tolist() == [1, 2, 0]


def test_a_batch_without_held_out_rows_judges_nobody(spec, batch):
    model = build(spec, held_out=1e-9)
    model.error.copy_(torch.tensor([3.0, 1.0, 2.0]))
    model(batch, "all")
    assert model.error.tolist() == [3.0, 1.0, 2.0]


def test_a_frozen_model_does_not_move(spec, batch):
    model = build(spec)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        losses, latents = model(batch, "all")
    assert losses == {}
    assert latents.start.batch_size == 16
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def imagine(model: EnsembleDynamics, count: int) -> tuple[torch.Tensor, ...]:
    """Steps from one state by one action: vector, reward, cont."""
    state, action = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.5, -1.0])
    carry = model._carry(state.expand(count, -1), 0.0, 0.9)
    found = model.imagine_step(carry, action.expand(count, -1))
    return found["vector"] - state, found["reward"], found["cont"]


def test_steps_are_drawn_from_the_elites(spec):
    """Far apart means tell which member a step came from; no other member ever imagines."""
    model = build(spec, termination="never")
    last = model.networks.mlp.linears[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:, 0, :4] = torch.tensor([[0.0] * 4, [50.0] * 4, [-50.0] * 4])
        model.min_log = model.networks.min_log_variance.fill_(-20)
        last.bias[:, 0, 4:] = 2 * torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
        model.networks.max_log_variance.fill_(8.0)  # no clamp at these variances
    model.elites.copy_(torch.tensor([2, 1]))
    vector, reward, cont = imagine(model, 20_000)
    every = torch.cat([vector, reward[:, None]], 1)
    high = every[:, 0] > 0
    assert float(high.float().mean()) == pytest.approx(0.5, abs=0.02)
    for rows, centre in ((every[high], 50.0), (every[~high], -50.0)):
        assert rows.mean(0).tolist() == pytest.approx([centre] * 4, abs=0.02)
        assert rows.std(0).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=0.03)
        correlation = torch.corrcoef(rows.T) - torch.eye(4)
        assert float(correlation.abs().max()) < 0.05
    assert cont.unique().tolist() == [pytest.approx(0.9)]


def test_the_penalty_is_the_largest_norm_of_deviations(spec):
    """MOPO: over all members, elite or not, and over all outputs, the reward's included."""
    model, state = build(spec), torch.randn(6, 3)
    action = torch.rand(6, 2) * 2 - 1
    carry = model._carry(state, 0.0, 0.9)
    rewards = []
    for penalty in (0.0, 0.7):
        torch.manual_seed(4)
        model.config = replace(model.config, penalty=penalty)
        rewards.append(model.imagine_step(carry, action)["reward"])
    _, log_variance = model.networks(torch.cat([state, action], 1))
    for row in range(6):
        norms = [
            math.sqrt(sum(math.exp(float(lv)) for lv in log_variance[i, row].detach()))
            for i in range(3)
        ]
        taken = float(rewards[0][row] - rewards[1][row])
        assert taken == pytest.approx(0.7 * max(norms), rel=1e-4)


def test_episodes_end_with_the_learned_probability(spec):
    model = build(spec)
    assert model.going_on is not None
    output: Any = model.going_on[-1]
    with torch.no_grad():
        output.weight.zero_()
        output.bias.fill_(math.log(0.8 / 0.2))
    _, _, cont = imagine(model, 20_000)
    assert sorted(cont.unique().tolist()) == [0.0, pytest.approx(0.9)]
    assert float((cont > 0).float().mean()) == pytest.approx(0.8, abs=0.02)


def test_ends_are_rare_until_the_rows_say_otherwise(spec):
    model = EnsembleDynamics(EnsembleConfig(), spec, 0.9)
    _, _, cont = imagine(model, 1000)
    assert float((cont > 0).float().mean()) > 0.98
    never = EnsembleDynamics(EnsembleConfig(termination="never"), spec, 0.9)
    assert never.going_on is None
    assert "continue" not in never.weights()


def test_draws_can_have_a_generator_of_their_own(spec):
    model, state = build(spec), torch.randn(5, 3)
    carry, action = model._carry(state, 0.0, 0.9), torch.zeros(5, 2)
    before, found = torch.get_rng_state(), []
    for _ in range(2):
        draws = torch.Generator().manual_seed(1)
        found.append(model.imagine_step(carry, action, generator=draws))
    assert torch.equal(before, torch.get_rng_state())
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name])


def test_every_parameter_is_learned_once(spec):
    model = build(spec)
    every = [p for group in model.parameter_groups() for p in group["params"]]
    assert len(every) == len({id(p) for p in every}) == len(list(model.parameters()))
    assert {group["lr"] for group in model.parameter_groups()} == {1e-3}


def test_more_elites_than_members_are_refused():
    with pytest.raises(UserError, match=r"elites is at most world_model\.members, 7, not 8"):
        EnsembleConfig(elites=8)
    with pytest.raises(UserError, match=r"world_model\.held_out lies above 0 and below 1"):
        EnsembleConfig(held_out=0.0)


def test_it_learns_dynamics_and_knows_its_noise(spec, make_batch):
    """s' = s + 0.5 a_0 + noise of 0.1, r = a_1, an end wherever s_0 > 1: learned from rows."""
    torch.manual_seed(0)
    model = EnsembleDynamics(EnsembleConfig(members=3, elites=2, layers=2, units=32), spec, 0.9)
    optimizer = torch.optim.Adam(model.parameter_groups())
    for update in range(400):
        ids = torch.arange(update * 128, update * 128 + 128).view(64, 2)
        batch = make_batch(spec, 64, 2, index=ids)
        action = batch.prev_action[:, 1]
        following = batch.obs["vector"][:, 0] + 0.5 * action[:, :1] + 0.1 * torch.randn(64, 3)
        batch.obs["vector"][:, 1], batch.reward[:, 1] = following, action[:, 1]
        batch.is_terminal = torch.stack([batch.is_last[:, 0], following[:, 0] > 1], 1)
        losses, _ = model(batch, "all")
        weights = model.weights()
        optimizer.zero_grad()
        torch.stack([losses[k].mean() * w for k, w in weights.items()]).sum().backward()
        optimizer.step()
    state, action = torch.randn(500, 3), torch.rand(500, 2) * 2 - 1
    carry = model._carry(state, 0.0, 0.9)
    found = model.imagine_step(carry, action)
    residual = found["vector"] - state - 0.5 * action[:, :1]
    assert float(residual.mean().abs()) < 0.03
    assert float(residual.std()) == pytest.approx(0.1, rel=0.25)
    assert float((found["reward"] - action[:, 1]).abs().mean()) < 0.05
    inside, outside = found["vector"][:, 0] < 0.7, found["vector"][:, 0] > 1.3
    assert float((found["cont"][inside] > 0).float().mean()) > 0.95
    assert float((found["cont"][outside] > 0).float().mean()) < 0.05
