"""Policy and critic losses against plain float64 loops, number by number."""

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldmodels.actor_critic import ActorCritic
from worldmodels.config import ActorCriticConfig, ValuesConfig
from worldmodels.distributions import default_bins, symlog
from worldmodels.envs.spec import ActionSpec
from worldmodels.objects import Batch, Latents, Rollout

B, T, L, F, A = 2, 5, 4, 6, 3
DISCOUNT = 0.9
STARTS = torch.tensor([[0, 0], [1, 3], [0, 4], [1, 4], [0, 2], [1, 1]])
M = len(STARTS)


def value_heads(model: ActorCritic) -> tuple[Any, Any]:
    """The plain critic and its slow copy."""
    values: Any = model.values
    return values.critics.members[0], values.slow.members[0]


def build(kind: Any = "discrete", **options) -> ActorCritic:
    config = ActorCriticConfig(layers=1, units=8, **options)
    model = ActorCritic(config, ValuesConfig(), F, ActionSpec(kind, A), DISCOUNT)
    for head in (model.policy, *value_heads(model)):  # zeros would hide faults
        torch.nn.init.normal_(head.output.weight, std=0.5)
    with torch.no_grad():  # values of a few units, so that rewards count beside them
        for head in value_heads(model):
            head.output.bias.copy_(-2 * (symlog(default_bins()) - 1) ** 2)
    return model


def make_rollout(kind: str = "discrete") -> Rollout:
    action = torch.eye(A)[torch.randint(A, (M, L))] if kind == "discrete" else torch.randn(M, L, A)
    weight = torch.ones(M)
    weight[2] = 0.0
    return Rollout(
        torch.randn(M, L + 1, F),
        action,
        torch.randn(M, L + 1) * 200,  # a scale above 1 even after one update
        torch.rand(M, L + 1),
        weight,
    )


def make_replay(**flags: Tensor) -> tuple[Latents, Batch]:
    no = torch.zeros(B, T, dtype=torch.bool)
    none: Any = None
    fields: dict[str, Any] = {"is_first": no, "is_last": no, "is_terminal": no} | flags
    batch = Batch({}, none, torch.randn(B, T) * 3, **fields, obs_valid=~no, index=none, reset=no)
    feature = torch.randn(B, T, F, requires_grad=True)
    return Latents(feature, none, none, none, STARTS, torch.ones(M), none), batch


def cross_entropy(logits: Tensor, y: float) -> Tensor:
    """-sum of two-hot weights times log softmax; logits [255] float64."""
    bins = default_bins().double()
    k = max(i for i in range(254) if float(bins[i]) <= y)
    upper = (y - float(bins[k])) / float(bins[k + 1] - bins[k])
    log_p = torch.log_softmax(logits, 0)
    return -((1 - upper) * log_p[k] + upper * log_p[k + 1])


def expectation(logits: Tensor) -> float:
    """Pairs of opposite bins first, in float64."""
    p, bins = torch.softmax(logits.detach(), -1), default_bins().double()
    return float(sum((p[254 - i] - p[i]) * bins[254 - i] for i in range(127)))


def policy_terms(model: ActorCritic, feature: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability and entropy at one state, by the densities themselves."""
    out = model.policy(feature)
    if model.policy.discrete:
        p = 0.99 * torch.softmax(out, 0) + 0.01 / A
        return (p * action).sum().log(), -(p * p.log()).sum()
    mean, std = torch.tanh(out[:A]), 0.9 * torch.sigmoid(out[A:] + 2) + 0.1
    density = torch.exp(-0.5 * ((action - mean) / std) ** 2) / (std * (2 * np.pi) ** 0.5)
    return density.log().sum(), (0.5 * torch.log(2 * np.pi * np.e * std**2)).sum()


def imagined_by_loop(model: ActorCritic, rollout: Rollout) -> tuple[dict[str, Tensor], Tensor]:
    """`policy` and `value` [M, L] and the returns, for a normaliser that starts at zero."""
    model = model.double()
    x = {name: value.double() for name, value in vars(rollout).items()}
    logits = value_heads(model)[0](x["feature"])
    values = [[expectation(logits[m, t]) for t in range(L + 1)] for m in range(M)]
    returns = torch.zeros(M, L, dtype=torch.float64)
    for m in range(M):
        following = values[m][L]
        for t in reversed(range(L)):
            mixed = 0.05 * values[m][t + 1] + 0.95 * following
            following = float(x["reward"][m, t + 1] + x["cont"][m, t + 1] * mixed)
            returns[m, t] = following
    low, high = np.percentile(returns.numpy(), [5, 95])
    scale = max(1.0, 0.01 * high - 0.01 * low)
    assert scale > 2
    losses = {"policy": [], "value": []}
    for m in range(M):
        weight = float(x["start_weight"][m])
        for t in range(L):
            weight *= float(x["cont"][m, t])
            score, entropy = policy_terms(model, x["feature"][m, t], x["action"][m, t])
            advantage = (float(returns[m, t]) - values[m][t]) / scale
            losses["policy"].append(-weight * (score * advantage + 3e-4 * entropy))
            slow = expectation(value_heads(model)[1](x["feature"][m, t]))
            fit = cross_entropy(logits[m, t], float(returns[m, t]))
            losses["value"].append(weight * (fit + cross_entropy(logits[m, t], slow)))
    return {name: torch.stack(loss).view(M, L) for name, loss in losses.items()}, returns


def replayed_by_loop(model: ActorCritic, feature: Tensor, batch: Batch, returns: Tensor) -> Tensor:
    """R_t = r' + g (1 - term') ((1 - 0.95 (1 - last')) boot' + 0.95 (1 - last') R')."""
    model = model.double()
    losses = []
    for b in range(B):
        logits = value_heads(model)[0](feature[b].double())
        boot = [expectation(logits[t]) for t in range(T)]
        for m, (row, t) in enumerate(STARTS.tolist()):
            if row == b:
                boot[t] = float(returns[m, 0])
        following, row_losses = boot[T - 1], []
        for t in reversed(range(T - 1)):
            terminal, last = float(batch.is_terminal[b, t + 1]), float(batch.is_last[b, t + 1])
            mixed = (1 - 0.95 * (1 - last)) * boot[t + 1] + 0.95 * (1 - last) * following
            following = float(batch.reward[b, t + 1]) + DISCOUNT * (1 - terminal) * mixed
            slow = expectation(value_heads(model)[1](feature[b, t].double()))
            fit = cross_entropy(logits[t], following) + cross_entropy(logits[t], slow)
            row_losses.append((1 - float(batch.is_last[b, t])) * fit)
        losses.append(torch.stack(row_losses[::-1]))
    return torch.stack(losses)


def flags(*places: tuple[int, int]) -> Tensor:
    found = torch.zeros(B, T, dtype=torch.bool)
    for b, t in places:
        found[b, t] = True
    return found


def test_signatures():
    forward = inspect.signature(ActorCritic.forward).parameters
    assert list(forward) == ["self", "rollout", "latents", "batch"]
    act = inspect.signature(ActorCritic.act).parameters
    assert list(act) == ["self", "feature", "greedy", "generator"]
    assert act["greedy"].kind is act["generator"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_losses_and_gradients_against_the_loops(kind):
    model, rollout = build(kind), make_rollout(kind)
    # Row 0: terminal at 2, then a new episode. Row 1: a time limit at 1, a lost life at 3.
    latents, batch = make_replay(
        is_first=flags((0, 3), (1, 2)),
        is_last=flags((0, 2), (1, 1)),
        is_terminal=flags((0, 2), (1, 3)),
    )
    losses, _ = model(rollout, latents, batch)
    exact = copy.deepcopy(model)
    feature = latents.feature.detach().double().requires_grad_()
    expected, returns = imagined_by_loop(exact, rollout)
    expected["replay_value"] = replayed_by_loop(exact, feature, batch, returns)
    assert losses.keys() == expected.keys() == model.weights().keys()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected[name], rtol=2e-4, atol=2e-4)

    def gradients(losses: dict[str, Tensor], model: ActorCritic, feature: Tensor) -> list[Tensor]:
        total = sum(loss.mean() for loss in losses.values())
        assert isinstance(total, Tensor)
        learned = [feature, *model.policy.parameters(), *value_heads(model)[0].parameters()]
        return list(torch.autograd.grad(total, learned))

    found = gradients(losses, model, latents.feature)
    for one, two in zip(found, gradients(expected, exact, feature), strict=True):
        scale = float(two.abs().max())
        torch.testing.assert_close(one.double(), two, rtol=1e-3, atol=1e-3 * scale)


def test_published_weights_and_constants():
    assert build().weights() == {"policy": 1.0, "value": 1.0, "replay_value": 0.3}
    config = ActorCriticConfig()
    assert (config.entropy, config.return_lambda, config.imagination_length) == (3e-4, 0.95, 15)
    assert (config.slow_rate, config.slow_weight, config.unimix) == (0.02, 1.0, 0.01)


def test_reward_at_the_start_is_not_learned_twice():
    """reward[:, 0] was paid before the rollout; cont[:, 0] only weighs it."""
    model, rollout = build(), make_rollout()
    latents, batch = make_replay()
    states = copy.deepcopy(model.state_dict())
    one, _ = model(rollout, latents, batch)
    rollout.reward[:, 0] += 100
    model.load_state_dict(states)
    two, _ = model(rollout, latents, batch)
    assert all(torch.equal(one[name], two[name]) for name in one)
    rollout.cont[:, 0] *= 0.5
    model.load_state_dict(states)
    three, _ = model(rollout, latents, batch)
    torch.testing.assert_close(three["policy"], 0.5 * one["policy"])
    torch.testing.assert_close(three["value"], 0.5 * one["value"])
    assert torch.equal(three["replay_value"], one["replay_value"])


def test_dead_starts_teach_nothing():
    losses, _ = build()(make_rollout(), *make_replay())
    for name in ("policy", "value"):
        assert not losses[name][2].any()
        assert losses[name][[0, 1, 3, 4, 5]].abs().min() > 0


@pytest.mark.parametrize(("ending", "bootstraps"), [("terminal", False), ("limit", True)])
def test_how_an_episode_ends(ending, bootstraps):
    """The row before the end learns r, or r + g boot after a time limit; the last row nothing."""
    model, rollout = build(slow_weight=0.0, return_lambda=0.95), make_rollout()
    end = flags((0, 2))
    latents, batch = make_replay(
        is_last=end, is_terminal=end if ending == "terminal" else ~end & end
    )
    losses, _ = model(rollout, latents, batch)
    _, returns = imagined_by_loop(copy.deepcopy(model), rollout)
    boot = float(returns[4, 0])  # imagination from (0, 2)
    target = float(batch.reward[0, 2]) + (DISCOUNT * boot if bootstraps else 0.0)
    expected = cross_entropy(value_heads(model)[0](latents.feature)[0, 1].double(), target)
    assert losses["replay_value"][0, 1].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses["replay_value"][0, 2] == 0
    assert losses["replay_value"][0, 3] != 0


def test_values_are_exactly_zero_at_the_start():
    model = ActorCritic(ActorCriticConfig(), ValuesConfig(), F, ActionSpec("discrete", A), DISCOUNT)
    _, statistics = model(make_rollout(), *make_replay())
    assert statistics["value"] == 0
    assert all(
        torch.equal(slow, p)
        for slow, p in zip(*(head.parameters() for head in value_heads(model)), strict=True)
    )


def test_gradients_stay_apart():
    model = build()
    latents, batch = make_replay()
    losses, _ = model(make_rollout(), latents, batch)
    parts = {
        "policy": list(model.policy.parameters()),
        "value": list(value_heads(model)[0].parameters()),
        "feature": [latents.feature],
    }
    reached = {"policy": {"policy"}, "value": {"value"}, "replay_value": {"value", "feature"}}
    assert not any(p.requires_grad for p in value_heads(model)[1].parameters())
    for name, loss in losses.items():
        for part, learned in parts.items():
            grads = torch.autograd.grad(loss.sum(), learned, retain_graph=True, allow_unused=True)
            touched = any(g is not None and bool(g.any()) for g in grads)
            assert touched == (part in reached[name]), (name, part)


def test_slow_critic_mixes_geometrically():
    """With a constant critic, n updates leave 0.98^n of the start."""
    model = build()
    critic, slow_critic = value_heads(model)
    start = [p.clone() for p in slow_critic.parameters()]
    for n in range(1, 31):
        model.after_update()
        if n in (1, 2, 30):
            for slow, old, new in zip(
                slow_critic.parameters(), start, critic.parameters(), strict=True
            ):
                expected = (1 - 0.98**n) * new + 0.98**n * old
                torch.testing.assert_close(slow, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_act(kind):
    model, feature = build(kind), torch.randn(200, F)
    before = torch.get_rng_state()
    one, two = (model.act(feature, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, model.act(feature))
    assert one.shape == (200, A)
    assert not one.requires_grad
    greedy = model.act(feature, greedy=True)
    out = model.policy(feature)
    if kind == "discrete":
        assert (one.sum(-1) == 1).all()
        assert torch.equal(greedy.argmax(-1), out.argmax(-1))
    else:
        torch.testing.assert_close(greedy, torch.tanh(out[:, :A]))


def test_policy_explores_at_one_percent():
    model = build()
    with torch.no_grad():
        model.policy.output.bias.copy_(torch.tensor([500.0, 0.0, 0.0]))
    distribution: Any = model.policy.distribution(torch.randn(4, F))
    assert distribution.probs[:, 1:].flatten().tolist() == pytest.approx([0.01 / 3] * 8, rel=1e-4)
    fresh = ActorCritic(ActorCriticConfig(), ValuesConfig(), F, ActionSpec("discrete", A), DISCOUNT)
    assert fresh.policy.distribution(torch.randn(4, F)).entropy().min() > 0.999 * np.log(A)


def test_values_say_what_returns_bootstrap_from(monkeypatch):
    """A last value that is 50 lower, discounted on the way; the baseline stays where it is."""
    model, rollout, rows = build(), make_rollout(), make_replay()
    model.normalizer.range.copy_(torch.tensor([3.0, 8.0]))  # scale 5, span 8
    states, plain = copy.deepcopy(model.state_dict()), model(rollout, *rows)[1]
    model.load_state_dict(states)
    spans, bootstrap = [], model.values.bootstrap

    def lower(estimate, feature, span):
        spans.append(float(span))
        value = bootstrap(estimate, feature, span).clone()
        value[:, -1] -= 50
        return value

    monkeypatch.setattr(model.values, "bootstrap", lower)
    monkeypatch.setattr(model.values, "after_update", lambda span: spans.append(float(span)))
    lowered = model(rollout, *rows)[1]
    model.normalizer.range.copy_(torch.tensor([3.0, 8.0]))
    model.after_update()
    assert spans == [8.0, 8.0]
    share = [rollout.cont[:, i + 1 :].prod(1) * 0.95 ** (L - 1 - i) for i in range(L)]
    fell = 50 * torch.stack(share).mean()
    torch.testing.assert_close(plain["return"] - lowered["return"], fell, rtol=1e-3, atol=1e-3)
    assert torch.equal(plain["value"], lowered["value"])
