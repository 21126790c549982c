"""IQL's losses against a float64 loop; what they may move; a case whose answer is known."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from worldmodels.envs.spec import ActionSpec
from worldmodels.errors import UserError
from worldmodels.iql import IQL
from worldmodels.iql_options import IQLConfig
from worldmodels.learner import Learner, build_models
from worldmodels.objects import Batch, Latents
from worldmodels.presets import load_config
from worldmodels.runtime.fabric import build_fabric
from worldmodels.values.configs import ValuesConfig

B, T, F, A = 3, 6, 4, 3
NONE: Any = None


def build(kind: Any = "discrete", **options) -> IQL:
    model = IQL(IQLConfig(layers=1, units=16, **options), F, ActionSpec(kind, A), 0.9)
    heads: Any = [model.policy, model.state_value, *model.action_value.members, *model.slow.members]
    for head in heads:  # zeros would hide faults
        torch.nn.init.normal_(head.output.weight, std=0.5)
    return model


def rows(kind: str = "discrete") -> tuple[Latents, Batch]:
    last, terminal = torch.zeros(2, B, T, dtype=torch.bool)
    last[0, 2] = terminal[0, 2] = last[1, 3] = True  # an end, and a time limit
    shape = (B, T)
    action = torch.eye(A)[torch.randint(A, shape)] if kind == "discrete" else torch.randn(B, T, A)
    flags: Any = {"is_first": last.roll(1, 1), "is_last": last, "is_terminal": terminal}
    batch = Batch({}, action, torch.randn(shape), **flags, obs_valid=~last, index=NONE, reset=last)
    feature = torch.randn(B, T, F, requires_grad=True)
    return Latents(feature, NONE, NONE, NONE, NONE, NONE, NONE), batch


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_losses_by_a_loop(kind):
    model = build(kind, expectile=0.8, temperature=2.0, largest_weight=3.0)
    latents, batch = rows(kind)
    losses, _ = model(NONE, latents, batch)
    exact: Any = copy.deepcopy(model).double()
    x, a = latents.feature.detach().double(), batch.prev_action.double()
    clipped = 0
    for b in range(B):
        for t in range(T - 1):
            if batch.is_last[b, t]:
                assert all(float(loss[b, t].detach()) == 0 for loss in losses.values())
                continue
            pair = torch.cat([x[b, t], a[b, t + 1]])
            value = float(exact.state_value(x[b, t]).detach())
            u = min(float(q(pair).detach()) for q in exact.slow.members) - value
            on = 0.0 if batch.is_terminal[b, t + 1] else 0.9
            y = float(batch.reward[b, t + 1]) + on * float(exact.state_value(x[b, t + 1]).detach())
            q = sum((y - float(q(pair).detach())) ** 2 for q in exact.action_value.members)
            out = exact.policy(x[b, t]).detach()
            if kind == "discrete":
                log_p = float((torch.log_softmax(out, 0) * a[b, t + 1]).sum())
            else:
                std = 0.9 * torch.sigmoid(out[A:] + 2) + 0.1
                normal = torch.distributions.Normal(torch.tanh(out[:A]), std)
                log_p = float(normal.log_prob(a[b, t + 1]).sum())
            clipped += np.exp(2 * u) > 3
            expected = {
                "value": abs(0.8 - (u < 0)) * u**2,
                "action_value": q,
                "policy": -min(np.exp(2 * u), 3.0) * log_p,
            }
            for name, number in expected.items():
                assert losses[name][b, t].item() == pytest.approx(number, rel=1e-3, abs=1e-4), name
    assert clipped
    assert losses.keys() == model.weights().keys()


def test_each_loss_moves_its_own_network_and_never_the_world_model():
    model = build()
    latents, batch = rows()
    losses, _ = model(NONE, latents, batch)
    owner = {"policy": "policy", "value": "state_value", "action_value": "action_value"}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for name, loss in losses.items():
        params = [latents.feature, *(model.get_parameter(n) for n in names)]
        grads = torch.autograd.grad(loss.sum(), params, retain_graph=True, allow_unused=True)
        pairs = zip(names, grads[1:], strict=True)
        touched = {n.partition(".")[0] for n, g in pairs if g is not None}
        assert touched == {owner[name]}
        assert grads[0] is None
    assert not any(p.requires_grad for p in model.slow.parameters())


def test_it_prefers_the_better_action_of_the_data_and_ignores_actions_outside_it():
    """One state: action 0 pays 0 nine times in ten, action 1 pays 1; action 2 was never taken."""
    torch.manual_seed(0)
    model = IQL(
        IQLConfig(layers=1, units=32, expectile=0.9, slow_rate=0.05),
        F,
        ActionSpec("discrete", A),
        0.9,
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(400):
        latents, batch = rows()
        chosen = (torch.rand(B, T) < 0.1).long()
        reward = chosen.float()
        ends = torch.zeros(B, T, dtype=torch.bool)
        ends[:, 1::2] = True  # pairs of rows: a state, and the end that its action led to
        batch = replace(
            batch, prev_action=torch.eye(A)[chosen], reward=reward, is_last=ends, is_terminal=ends
        )
        latents = replace(latents, feature=torch.ones(B, T, F))
        losses, _ = model(NONE, latents, batch)
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()  # type: ignore
        optimizer.step()
        model.after_update()
    state = torch.ones(1, F)
    policy: Any = model.policy.distribution(state)
    probs = policy.probs[0].tolist()
    # 0.1 exp(3 * 0.5) against 0.9 exp(3 * -0.5): 0.69, where cloning gives 0.1.
    assert probs[1] == pytest.approx(0.69, abs=0.15)
    assert probs[2] < 0.05
    # V is the 0.9-expectile of a coin that pays 1 once in ten: 0.9 * 0.1 / (0.9 * 0.1 + 0.1 * 0.9).
    assert model.value(state).item() == pytest.approx(0.5, abs=0.12)


def test_it_learns_in_the_trainers_update(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    config = replace(make_config(), actor_critic=IQLConfig(layers=1, units=8))
    learner = Learner(config, spec, build_fabric("cpu", "32"))
    for _ in range(2):
        learner.gradients(make_batch(spec))
        learner.apply()
    update = learner.gradients(make_batch(spec))
    assert {"loss/policy", "loss/value", "loss/action_value"} < update.metrics.keys()
    for name, p in learner.actor_critic.named_parameters():
        assert (p.grad is not None) == (not name.startswith("slow")), name


def test_it_imagines_nothing_and_takes_any_model_but_no_value_learner(make_spec, make_batch):
    config = load_config("gym:Pendulum-v1", ["iql"], world_model={"name": "observation"})
    spec = make_spec("vector", action="continuous")
    learner = Learner(config, spec, build_fabric("cpu", "32"))
    update = learner.gradients(make_batch(spec))
    assert learner.imagine(update.latents).action.shape[1] == 0
    with pytest.raises(UserError, match="dreamer; iql has critics of its own"):
        build_models(replace(config, values=ValuesConfig(kind="ravl")), spec)
