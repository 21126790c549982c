"""SAC's losses against float64 loops over single networks; which loss moves what; what it draws."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldmodels.config import ValuesConfig
from worldmodels.control.critics import diversity
from worldmodels.control.options import SACConfig
from worldmodels.control.sac import SAC
from worldmodels.control.transitions import Transitions
from worldmodels.errors import UserError
from worldmodels.learner import Learner, build_models
from worldmodels.objects import Batch, Latents, Rollout
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric
from worldmodels.system import System

S, A, N, B, M, L = 3, 2, 4, 10, 6, 3
DISCOUNT = 0.9


def build(**options: Any) -> SAC:
    given: dict[str, Any] = {"critics": N, "layers": 2, "units": 8, "batch": 8}
    given |= {"real_share": 0.5, "imagination_length": L, "retain": 2, **options}
    config = SACConfig(**given)
    model = SAC(config, S, A, DISCOUNT, M * config.imagination_length)
    for parameter in model.parameters():  # outputs near zero would hide faults
        torch.nn.init.normal_(parameter, std=0.5)
    return model.double()


def make_rows() -> tuple[Rollout, Latents, Batch]:
    """Ten windows of two rows, of which two hold no transition, and a rollout with ends."""
    no = torch.zeros(B, 2, dtype=torch.bool)
    last, first, terminal = no.clone(), no.clone(), no.clone()
    last[[1, 4], 0] = first[[1, 4], 1] = True
    terminal[2, 1] = True
    none: Any = None
    action, feature = torch.rand(B, 2, A).double() * 2 - 1, torch.randn(B, 2, S).double()
    batch = Batch({}, action, torch.randn(B, 2).double(), first, last, terminal, ~no, none, no)
    cont = torch.full((M, L + 1), DISCOUNT).double()
    cont[2, 1] = cont[3, 3] = 0.0
    rollout = Rollout(
        torch.randn(M, L + 1, S).double(),
        torch.rand(M, L, A).double() * 2 - 1,
        torch.randn(M, L + 1).double(),
        cont,
        (torch.arange(M) != 5).double(),
    )
    start: Any = None
    return rollout, Latents(feature, start, start, start, start, start, start), batch


def run(model: SAC, monkeypatch) -> tuple[dict[str, Tensor], Transitions, list[Tensor], dict]:
    """One forward: its losses, what it drew, its draws of noise, and its statistics."""
    drawn, noises, draw, normal = [], [], model._draw, Tensor.normal_

    def watched(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    def noisy(self, **options):
        noises.append(normal(self, **options).clone())
        return self

    monkeypatch.setattr(model, "_draw", watched)
    monkeypatch.setattr(Tensor, "normal_", noisy)
    losses, statistics = model(*make_rows())
    monkeypatch.undo()
    return losses, drawn[0], noises, statistics


def act(model: SAC, state: Tensor, noise: Tensor) -> tuple[Tensor, float]:
    """One action and its log density, number by number."""
    policy, log_prob, action = model.policy(state[None]), 0.0, []
    for i in range(A):
        log_std = policy.log_std[0, i].item()
        u = policy.mean[0, i].item() + math.exp(log_std) * float(noise[i])
        log_prob += -0.5 * float(noise[i]) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        log_prob += 2 * math.log(math.cosh(u))  # -log(1 - tanh^2)
        action.append(math.tanh(u))
    return torch.tensor([action], dtype=torch.float64), log_prob


@torch.no_grad()
def test_losses_are_those_of_a_loop(monkeypatch):
    model = build()
    with torch.no_grad():
        model.log_alpha.fill_(-0.7)
    with torch.enable_grad():
        losses, data, (next_noise, noise), statistics = run(model, monkeypatch)
    assert losses.keys() == {"critic", "policy", "alpha", "diversity"} == model.weights().keys()
    assert model.weights() == {"critic": 1.0, "policy": 1.0, "alpha": 1.0, "diversity": 1.0}
    alpha, expected = math.exp(-0.7), {"critic": [], "policy": [], "alpha": []}
    penalties = []
    for k in range(8):
        state, following = data.state[k : k + 1], data.next_state[k : k + 1]
        action, log_prob = act(model, data.next_state[k], next_noise[k])
        value = min(float(model.slow_critics(following, action)[i]) for i in range(N))
        target = data.reward[k] + data.cont[k] * (value - alpha * log_prob)
        critic = model.critics(state, data.action[k : k + 1])
        expected["critic"].append(sum(float((critic[i] - target) ** 2) for i in range(N)))
        action, log_prob = act(model, data.state[k], noise[k])
        judged = [float(model.critics(state, action)[i]) for i in range(N)]
        expected["policy"].append(alpha * log_prob - min(judged))
        expected["alpha"].append(0.7 * (log_prob - A))
        penalties.append(sum(judged) / N - min(judged))
    for name, values in expected.items():
        assert losses[name].tolist() == pytest.approx(values, rel=1e-6), name
    with torch.enable_grad():
        slope = model.critics.with_slopes(data.state, data.action)[1]
    torch.testing.assert_close(losses["diversity"], diversity(slope))
    assert float(statistics["penalty"]) == pytest.approx(sum(penalties) / 8)
    assert float(statistics["alpha"]) == pytest.approx(alpha)


def test_what_is_no_transition_does_not_count(monkeypatch):
    """All ten windows are asked for; the two that cross an episode weigh nothing, and the mean
    over ten is that over the other eight."""
    model = build(batch=B, real_share=1.0, imagination_length=0, critics=2)
    assert model.ring is None
    losses, data, (_, noise), _ = run(model, monkeypatch)
    assert data.weight.tolist() == [1.0] * 8 + [0.0] * 2
    assert all(not loss[8:].any() for loss in losses.values())
    alpha, expected = model.log_alpha.exp().item(), 0.0
    for k in range(8):
        action, log_prob = act(model, data.state[k], noise[k])
        judged = model.critics(data.state[k : k + 1], action).detach()
        expected += (alpha * log_prob - float(judged.min())) / 8
    assert losses["policy"].mean().item() == pytest.approx(expected)


def gradients(model: SAC, loss: Tensor) -> dict[str, bool]:
    """Which parts a loss moves."""
    parts = {"policy": model.policy, "critics": model.critics, "slow": model.slow_critics}
    model.zero_grad(set_to_none=True)
    loss.sum().backward(retain_graph=True)
    moved = {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }
    grad = model.log_alpha.grad
    return moved | {"alpha": grad is not None and bool(grad.any())}


def test_every_loss_moves_its_own_part_alone(monkeypatch):
    model = build()
    losses, _, _, _ = run(model, monkeypatch)
    nothing = {"policy": False, "critics": False, "slow": False, "alpha": False}
    assert gradients(model, losses["critic"]) == nothing | {"critics": True}
    assert gradients(model, losses["diversity"]) == nothing | {"critics": True}
    assert gradients(model, losses["policy"]) == nothing | {"policy": True}
    assert gradients(model, losses["alpha"]) == nothing | {"alpha": True}


def test_the_policy_follows_the_least_critic(monkeypatch):
    """d policy loss / d policy equals autograd through single, detached critics."""
    model = build(diversity=0.0)
    losses, data, (_, noise), _ = run(model, monkeypatch)
    mine = torch.autograd.grad(losses["policy"].mean(), list(model.policy.parameters()))
    monkeypatch.setattr(Tensor, "normal_", lambda self, **_: self.copy_(noise))
    action, log_prob = model.policy(data.state).sample()
    monkeypatch.undo()
    total = torch.zeros(())
    alpha = model.log_alpha.exp().detach()
    for k in range(8):
        judged = model.critics(data.state[k : k + 1], action[k : k + 1])[:, 0]
        total = total + (alpha * log_prob[k] - judged[judged.argmin()]) / 8
    theirs = torch.autograd.grad(total, list(model.policy.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_alpha_rises_where_entropy_lacks():
    """-d loss / d log alpha = log pi - A: positive where the entropy is below its target, -A."""
    model = build()
    for bias, rises in ((-5.0, True), (-1.0, False)):
        with torch.no_grad():
            model.policy.output.weight.zero_()
            model.policy.output.bias.copy_(torch.tensor([0.0] * A + [bias] * A))
        losses, _ = model(*make_rows())
        (slope,) = torch.autograd.grad(losses["alpha"].mean(), model.log_alpha)
        assert bool(slope < 0) == rises


def test_the_diagnosis_judges_states_inside_rollouts_and_at_their_end():
    """State by state, at the policy's mode; without rollouts there is nothing to say."""
    model = build(critics=3, real_share=0.35, batch=10)
    rows = make_rows()
    _, statistics = model(*rows)
    judged = []
    for states in rows[0].feature.detach():
        modes = [model.policy(state[None]).mode() for state in states]
        pairs = zip(states, modes, strict=True)
        judged.append([model.critics(s[None], a)[:, 0].tolist() for s, a in pairs])
    judged = np.array(judged)  # [M, L + 1, N]
    assert float(statistics["reach/value_edge"]) == pytest.approx(judged[:, -1].min(-1).mean())
    assert float(statistics["reach/value_inside"]) == pytest.approx(judged[:, :-1].min(-1).mean())
    assert float(statistics["reach/spread_edge"]) == pytest.approx(judged[:, -1].std(-1).mean())
    alone = build(critics=3, real_share=1, imagination_length=0)
    assert not any(name.startswith("reach/") for name in alone(*make_rows())[1])


def test_a_batch_is_real_rows_then_imagined_ones(monkeypatch):
    model = build(batch=10, real_share=0.35)
    assert (model.config.real, model.config.imagined) == (3, 7)
    rows = make_rows()
    monkeypatch.setitem(globals(), "make_rows", lambda: rows)
    _, data, _, statistics = run(model, monkeypatch)
    rollout, latents, batch = rows
    for k, b in enumerate((0, 2, 3)):  # window 1 crosses an episode
        assert torch.equal(data.state[k], latents.feature[b, 0])
        assert torch.equal(data.action[k], batch.prev_action[b, 1])
        assert float(data.cont[k]) == pytest.approx(0.0 if b == 2 else DISCOUNT)
    # 18 imagined steps less those after an end (2 of start 2) and those of the dead start (3).
    assert model.ring is not None
    assert int(model.ring.size) == int(statistics["ring"]) == 13
    states = {tuple(s.tolist()) for s in rollout.feature[:, :-1].flatten(0, 1).float()}
    assert all(tuple(s.tolist()) in states for s in data.state[3:].float())


def test_the_ring_keeps_the_last_updates():
    model = build(retain=2)
    assert model.ring is not None
    assert model.ring.capacity == 2 * M * L
    for _ in range(4):
        model(*make_rows())
    assert int(model.ring.size) == 2 * M * L


def test_slow_critics_follow():
    model = build(slow_rate=0.25)
    before = [p.clone() for p in model.slow_critics.parameters()]
    model.after_update()
    pairs = zip(before, model.critics.parameters(), model.slow_critics.parameters(), strict=True)
    for old, target, new in pairs:
        torch.testing.assert_close(new, 0.75 * old + 0.25 * target)


def test_the_optimiser_leaves_the_slow_critics_alone():
    model = build()
    learned = [p for group in model.parameter_groups() for p in group["params"]]
    expected = [*model.policy.parameters(), *model.critics.parameters(), model.log_alpha]
    assert {id(p) for p in learned} == {id(p) for p in expected}


def test_acting():
    model, feature = build(), torch.randn(5, S).double()
    greedy = model.act(feature, greedy=True)
    torch.testing.assert_close(greedy, model.policy(feature).mean.tanh())
    before, draws = torch.get_rng_state(), torch.Generator().manual_seed(0)
    action = model.act(feature, generator=draws)
    assert torch.equal(before, torch.get_rng_state())
    assert not action.requires_grad
    assert float(action.abs().max()) <= 1
    assert not torch.equal(action, greedy)


def test_the_value_of_a_state_is_the_least_at_the_policys_mode():
    """Critic by critic in a loop, with the slope through the action too; nothing is drawn."""
    model, feature = build(), torch.randn(5, S).double().requires_grad_()
    before = torch.get_rng_state()
    found = model.value(feature)
    assert torch.equal(before, torch.get_rng_state())
    for i in range(5):
        state = feature[i].detach()
        action = model.policy(state[None]).mean.tanh()
        values = [float(model.critics(state[None], action)[n].detach()) for n in range(N)]
        assert float(found[i].detach()) == pytest.approx(min(values), rel=1e-9)
    (slope,) = torch.autograd.grad(found.sum(), feature)
    step = 1e-6 * torch.eye(S).double()
    for d in range(S):
        change = model.value(feature + step[d]) - model.value(feature - step[d])
        torch.testing.assert_close(slope[:, d], change / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"critics": 1}, "diversity needs actor_critic.critics of at least 2"),
        ({"real_share": 1.0}, "imagination_length is 0 where actor_critic.real_share is 1"),
        ({"imagination_length": 0}, "not 0 with a real share of 0.05"),
        ({"slow_rate": 1.5}, "slow_rate lies between 0 and 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, text):
    with pytest.raises(UserError) as error:
        SACConfig(**options)
    assert text in str(error.value)


def test_a_batch_too_small_for_its_real_share_is_refused(small, make_spec):
    config = small("sac", actor_critic={"batch": 17})
    with pytest.raises(UserError, match=r"16 x 2 rows holds 16 transitions.* asks for 17"):
        build_models(config, make_spec("vector", action="continuous"))


def test_values_are_not_for_sac(small, make_spec):
    config = replace(small(), values=ValuesConfig("ravl"))
    with pytest.raises(UserError, match=r"values\.\* are options of actor_critic\.name dreamer"):
        build_models(config, make_spec("vector", action="continuous"))


@pytest.mark.parametrize("preset", ["sac", "mbpo", "mopo", "ravl-mbpo"])
def test_an_update_of_every_preset(preset, small, make_spec, make_batch):
    """Through Fabric: one backward, one step; the networks move, what is slow hardly does."""
    spec = make_spec("vector", action="continuous", size=1)
    learner = Learner(small(preset), spec, build_fabric("cpu", "32"))
    before = {k: p.detach().clone() for k, p in learner.actor_critic.named_parameters()}
    update = learner.gradients(make_batch(spec, 16, 2))
    weights = learner.weights
    found = {k: v for k, v in update.metrics.items() if k.startswith("loss/")}
    assert {f"loss/{name}" for name in weights} == found.keys()
    total = sum(float(v) * weights[k.removeprefix("loss/")] for k, v in found.items())
    assert float(update.loss) == pytest.approx(total, rel=1e-5)
    learner.apply()
    for name, p in learner.actor_critic.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize(
    ("world_model", "actor_critic"), [("latent", "sac"), ("ensemble", "dreamer")]
)
def test_the_sockets_fit_each_other(world_model, actor_critic, small, make_spec, make_batch):
    """SAC on learned latents, and the Dreamer's actor-critic in an ensemble."""
    plain, control = load_config("gym:Pendulum-v1", ["debug"]), small()
    config = replace(
        control,
        world_model=(plain if world_model == "latent" else control).world_model,
        actor_critic=(plain if actor_critic == "dreamer" else control).actor_critic,
    )
    spec = make_spec("vector", action="continuous", size=1)
    learner = Learner(config, spec, build_fabric("cpu", "32"))
    update = learner.gradients(make_batch(spec, 16, 2))
    assert torch.isfinite(update.loss)
    learner.apply()


def test_it_learns_in_true_dynamics_from_imagined_steps_alone():
    """The setting of RAVL's experiments with an error-free model: no replayed row is an input."""
    config = load_config(
        "reach:plane",
        ["ravl-mbpo"],
        world_model={"name": "known", "starts": "first"},
        actor_critic={"units": 8, "real_share": 0, "retain": 2},
        threads=1,
    )
    system = System(config, None)
    while system.updates < 3:
        system.collect()
        system.learn()
    behaviour: Any = system.learner.actor_critic
    assert 0 < int(behaviour.ring.size) <= behaviour.ring.capacity == 2 * 50 * 5
    assert "loss/critic" in system.means.pop()
