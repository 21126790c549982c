"""The dynamics core with both posteriors and every backbone: one window, its parts, its steps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, LeafSpec, State
from worldmodels.config import WorldModelConfig
from worldmodels.distributions import OneHot
from worldmodels.dynamics import Dynamics, clip_action
from worldmodels.registry import backbone_class, backbone_names

B, T, E, A, S, C = 3, 6, 5, 2, 2, 3


class Window(Backbone):
    """h reads the last two inputs; the state is not h, so that a Carry holds both."""

    def __init__(self, input_size: int):
        super().__init__(None, input_size, 7)
        self.linear = nn.Linear(2 * input_size, 7)

    def state_spec(self):
        return {"last": LeafSpec((self.input_size,))}

    def step(self, u, state, reset):
        state = self.apply_reset(state, reset)
        h = torch.tanh(self.linear(torch.cat([u, state["last"]], 1)))
        return h, State({"last": u.to(state["last"].dtype)})


@pytest.fixture(scope="session")
def build(small_backbones):
    """`build("gru", "hx")` in float64; a backbone's name or "window"."""

    def make(name: str, posterior: Any) -> Dynamics:
        config = WorldModelConfig(posterior=posterior, stoch=S, classes=C, hidden=8)
        options = small_backbones.get(name)
        backbone = Window(16) if options is None else backbone_class(name)(options, 16)
        return Dynamics(config, backbone, token_size=E, actions=A).double()

    return make


def double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def carry_of(dynamics: Dynamics, rows: int = B) -> State:
    """A random model state in float64 that the backbone can reach, z exactly one-hot."""
    carry = dynamics.initial(rows).map(double)
    for _ in range(2):
        carry = dynamics.imagine_step(carry, torch.randn(rows, A).double(), None)
    return carry.detach()


@pytest.fixture(params=[*backbone_names(), "window"])
def backbone(request):
    return request.param


@pytest.fixture(params=["hx", "x"])
def dynamics(request, backbone, build):
    return build(backbone, request.param)


def window(length: int = T) -> tuple[Tensor, Tensor, Tensor]:
    tokens, action = torch.randn(B, length, E).double(), torch.randn(B, length, A).double()
    reset = torch.zeros(B, length, dtype=torch.bool)
    return tokens, action, reset


def close(one: Tensor, two: Tensor, what: str = "") -> None:
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10, msg=lambda m: f"{what} {m}")


@pytest.fixture
def greedy(monkeypatch):
    """Draw the mode, so that two ways through the same rows can be compared."""
    monkeypatch.setattr(
        OneHot, "sample", lambda self, generator=None: self.mode().to(self.probs.dtype)
    )


def test_imagination_continues_the_training_pass(dynamics):
    """From every emitted start, the recorded actions and posterior z give the window's h again."""
    tokens, action, reset = window()
    reset[1, 2] = True
    seen = dynamics.observe(tokens, action, reset, carry_of(dynamics), "all")
    for t in range(T - 1):
        carry = seen.start.detach().index(torch.arange(B) * T + t)
        close(carry["h"], seen.h[:, t])
        close(carry["z"], seen.z[:, t])
        for later in range(t + 1, T):
            carry = State({**carry, "z": seen.z[:, later - 1].detach()})
            carry = dynamics.imagine_step(carry, action[:, later], None)
            uncut = ~reset[:, t + 1 : later + 1].any(1)
            close(carry["h"][uncut], seen.h[:, later][uncut], f"start {t}, row {later}:")


def test_imagined_latents_come_from_the_prior(dynamics, monkeypatch):
    """The logits that imagination draws from are those of the training pass's prior."""
    tokens, action, reset = window()
    seen = dynamics.observe(tokens, action, reset, carry_of(dynamics), "all")
    drawn, real = [], OneHot.from_logits
    monkeypatch.setattr(OneHot, "from_logits", lambda x, u: drawn.append((x, u)) or real(x, u))
    dynamics.imagine_step(seen.start.index(torch.arange(B) * T + 2), action[:, 3], None)
    close(drawn[0][0], seen.prior_logits[:, 3])
    assert drawn[0][1] == dynamics.config.unimix == 0.01


def test_reset_zeroes_h_z_and_action(dynamics, greedy):
    """At a reset h is that of zero latent, zero action, initial state; so is what follows."""
    tokens, action, reset = window()
    reset[0, 0] = reset[1, 3] = True
    carry = carry_of(dynamics)
    one = dynamics.observe(tokens, action, reset, carry, "all")
    zero = torch.zeros(1, A).double()
    start = dynamics.initial(1).map(double)
    fresh = dynamics.imagine_step(start, zero, None)["h"][0]
    close(one.h[0, 0], fresh)
    close(one.h[1, 3], fresh)
    assert not torch.allclose(one.h[2, 0], fresh)

    other = action + 0.7 * reset.unsqueeze(-1)
    other[1, :3] += 1
    two = dynamics.observe(tokens, other, reset, carry.map(lambda leaf: leaf + 1), "all")
    for name in ("h", "z", "post_logits", "prior_logits"):
        x, y = getattr(one, name), getattr(two, name)
        assert torch.equal(x[0], y[0])
        assert torch.equal(x[1, 3:], y[1, 3:])
    assert not torch.equal(one.h[1, :3], two.h[1, :3])
    step = dynamics.observe_step(
        carry.map(lambda leaf: leaf + 1), action[:, 0] + 1, tokens[:, 0], reset[:, 0], None
    )
    close(step["h"][0], fresh)


def test_observe_step_equals_observe(dynamics, greedy):
    tokens, action, reset = window()
    reset[0, 2] = reset[2, 0] = reset[2, 1] = True
    carry = carry_of(dynamics)
    seen = dynamics.observe(tokens, action, reset, carry, "all")
    for t in range(T):
        carry = dynamics.observe_step(carry, action[:, t], tokens[:, t], reset[:, t], None)
        for name, leaf in seen.start.index(torch.arange(B) * T + t).items():
            close(carry[name], leaf, f"{name} at {t}:")
    for name, leaf in seen.last.items():
        close(carry[name], leaf)


def test_two_windows_with_the_carry_equal_one(dynamics, greedy):
    tokens, action, reset = window()
    reset[0, 1] = reset[1, 3] = True
    carry = carry_of(dynamics)
    whole = dynamics.observe(tokens, action, reset, carry, "all")
    for cut in (1, 3, 5):
        first = dynamics.observe(tokens[:, :cut], action[:, :cut], reset[:, :cut], carry, "all")
        rest = dynamics.observe(tokens[:, cut:], action[:, cut:], reset[:, cut:], first.last, "all")
        for name in ("h", "z", "post_logits", "prior_logits"):
            joined = torch.cat([getattr(first, name), getattr(rest, name)], 1)
            close(joined, getattr(whole, name), f"{name}, cut at {cut}:")
        for name, leaf in whole.last.items():
            close(rest.last[name], leaf)


def test_emitted_starts_by_index(dynamics, greedy):
    tokens, action, reset = window()
    carry = carry_of(dynamics)
    every = dynamics.observe(tokens, action, reset, carry, "all").start
    index = torch.tensor([[2, 1], [0, 5], [2, 1], [1, 0]])
    some = dynamics.observe(tokens, action, reset, carry, index).start
    for name, leaf in every.index(index[:, 0] * T + index[:, 1]).items():
        close(some[name], leaf)
    assert some["h"].requires_grad  # the world model detaches, the dynamics do not


def test_timing(dynamics):
    """h_t has seen z_{t-1} and the action that led to t, and not the observation at t."""
    tokens, action, reset = window()
    carry, index = carry_of(dynamics), torch.zeros(1, 2, dtype=torch.int64)
    tokens.requires_grad_()
    action.requires_grad_()
    seen = dynamics.observe(tokens, action, reset, carry, index)

    def reaches(output: Tensor, source: Tensor) -> list[bool]:
        (grad,) = torch.autograd.grad(output.sum(), source, retain_graph=True, allow_unused=True)
        return [grad is not None and bool((grad[:, t].abs() > rounding).any()) for t in range(T)]

    # Mamba-3 adds a term of the next row and takes it away again.
    rounding = 1e-14 if "0.angle" in dynamics.backbone.state_spec() else 0

    t = 3
    weight = torch.randn(S, C).double()
    actions, observations = reaches(seen.h[:, t], action), reaches(seen.h[:, t], tokens)
    assert actions[t]
    assert observations[t - 1]
    assert not any(actions[t + 1 :])
    assert not any(observations[t:])
    if not isinstance(dynamics.backbone, Window):
        assert actions[0]
    prior = reaches(seen.prior_logits[:, t] * weight, tokens)
    post = reaches(seen.post_logits[:, t] * weight, tokens)
    assert prior == observations
    assert post[t]
    by_memory = reaches(seen.post_logits[:, t] * weight, action)[t]
    assert post[t - 1] == by_memory == dynamics.sequential


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16 autocast"])
def test_latents_are_exact_one_hots(backbone, precision, build):
    for posterior in ("hx", "x"):
        dynamics = build(backbone, posterior)
        wide = torch.float64 if precision == "float64" else torch.float32
        dynamics = dynamics.to(wide)
        tokens, action, reset = (x.to(wide) if x.is_floating_point() else x for x in window(40))
        carry = dynamics.initial(B).map(
            lambda leaf, wide=wide: leaf.to(wide) if leaf.is_floating_point() else leaf
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16 autocast"):
            seen = dynamics.observe(tokens, action, reset, carry, "all")
            imagined = dynamics.imagine_step(seen.start, action.flatten(0, 1), None)
        for z in (seen.z, seen.start["z"], seen.last["z"], imagined["z"]):
            assert z.dtype == wide
            assert ((z == 0) | (z == 1)).all()
            assert (z.sum(-1) == 1).all()


def test_carry_keeps_its_spec_under_autocast(backbone, build):
    """What the replay stores is float32 whatever the networks compute in."""
    for posterior in ("hx", "x"):
        dynamics = build(backbone, posterior).float()
        spec = dynamics.carry_spec()
        tokens, action, reset = (x.float() if x.is_floating_point() else x for x in window())
        with torch.autocast("cpu", torch.bfloat16):
            carry = dynamics.initial(B)
            State.load(carry.save(), spec)
            seen = dynamics.observe(tokens, action, reset, carry, "all")
            step = dynamics.observe_step(carry, action[:, 0], tokens[:, 0], reset[:, 0], None)
            for found in (
                seen.last,
                seen.start,
                step,
                dynamics.imagine_step(step, action[:, 1], None),
            ):
                assert State.load(found.save(), spec).batch_size == found.batch_size


def test_carry_holds_h_once(build):
    rssm, other = build("rssm", "hx"), build("window", "hx")
    assert set(rssm.carry_spec()) == {"h", "z"}
    assert other.carry_spec() == {
        "h": LeafSpec((7,)),
        "z": LeafSpec((S, C)),
        "backbone.last": LeafSpec((16,)),
    }


@pytest.mark.parametrize("posterior", ["hx", "x"])
def test_posterior_is_an_mlp_on_h_and_tokens(posterior, build):
    """The tokens' share of the first layer is split off; the result is that of the whole layer."""
    posterior = build("gru", posterior).posterior
    h, tokens = torch.randn(4, 16).double(), torch.randn(4, E).double()
    h = h[:, : posterior.h_size]
    hidden = posterior.norm(posterior.first(torch.cat([h, tokens], 1)))
    close(posterior(posterior.project(tokens), h), posterior.output(posterior.rest(hidden)))


def test_actions_are_divided_by_their_size():
    """a / sg(max(1, |a|)), elementwise: the derivative is 1 / max(1, |a|)."""
    action = torch.tensor([-3.0, -1.0, 0.5, 4.0], requires_grad=True)
    clipped = clip_action(action)
    assert clipped.tolist() == [-1.0, -1.0, 0.5, 1.0]
    (grad,) = torch.autograd.grad(clipped.sum(), action)
    assert grad.tolist() == pytest.approx([1 / 3, 1, 1, 0.25])
