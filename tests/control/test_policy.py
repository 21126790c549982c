"""The tanh-Gaussian against torch's own transformed distribution, and where that one fails."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from worldmodels.control.policy import Policy, TanhGaussian


def reference(policy: TanhGaussian) -> TransformedDistribution:
    base = Independent(Normal(policy.mean, policy.log_std.exp()), 1)
    return TransformedDistribution(base, [TanhTransform(cache_size=1)])


def test_log_prob_is_that_of_the_transformed_distribution():
    torch.manual_seed(1)
    policy = TanhGaussian(torch.randn(50, 3).double(), torch.randn(50, 3).double() * 0.5)
    action, log_prob = policy.sample()
    expected = reference(policy).log_prob(action)
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.mode(), policy.mean.tanh())


def test_a_density_sums_to_one():
    """log pi at the places of a fine grid, by drawing u there: the integral over actions is 1."""
    u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    mean, log_std = torch.full_like(u, 0.7).unsqueeze(1), torch.full_like(u, -0.3).unsqueeze(1)
    policy = TanhGaussian(mean, log_std)
    noise = ((u - 0.7) / math.exp(-0.3)).unsqueeze(1)
    original = torch.Tensor.normal_
    try:
        torch.Tensor.normal_ = lambda self, **_: self.copy_(noise)  # type: ignore
        action, log_prob = policy.sample()
    finally:
        torch.Tensor.normal_ = original
    total = torch.trapezoid(log_prob.exp(), action[:, 0])
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_saturated_actions_have_the_exact_density():
    """At u = 20 tanh is 1 in float32; log(1 - tanh^2) is 2 log 2 - 2 u there."""
    policy = TanhGaussian(torch.full((1, 1), 20.0), torch.full((1, 1), -5.0))
    action, log_prob = policy.sample(torch.Generator().manual_seed(0))
    noise = torch.empty(1, 1).normal_(generator=torch.Generator().manual_seed(0))
    u = 20 + math.exp(-5) * float(noise)
    normal = -0.5 * float(noise) ** 2 + 5 - 0.5 * math.log(2 * math.pi)
    assert float(action) == 1.0
    assert float(log_prob) == pytest.approx(normal - (2 * math.log(2) - 2 * u), rel=1e-5)


def test_the_gradient_flows_through_the_draw():
    mean = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor([[-0.4]], dtype=torch.float64, requires_grad=True)
    draws = torch.Generator().manual_seed(3)
    state = draws.get_state()

    def drawn(mean, log_std):
        draws.set_state(state)
        action, log_prob = TanhGaussian(mean, log_std).sample(draws)
        return action.sum(), log_prob.sum()

    assert torch.autograd.gradcheck(drawn, (mean, log_std))


def test_the_networks_start():
    policy = Policy(5, 2, 16, 3)
    for layer in policy.hidden:
        assert torch.equal(dict(layer.named_parameters())["bias"], torch.full((16,), 0.1))
    assert len(policy.hidden) == 3
    for parameter in policy.output.parameters():
        assert 0 < float(parameter.detach().abs().max()) <= 1e-3
    with torch.no_grad():
        policy.output.bias[2:] = torch.tensor([9.0, -9.0])
    assert policy(torch.zeros(1, 5)).log_std.tolist() == [[2.0, -5.0]]


def test_draws_leave_the_global_generator_alone():
    policy = Policy(5, 2, 16, 1)(torch.randn(4, 5))
    before = torch.get_rng_state()
    first = policy.sample(torch.Generator().manual_seed(5))[0]
    again = policy.sample(torch.Generator().manual_seed(5))[0]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert first.abs().max().item() <= 1
