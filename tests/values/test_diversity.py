"""Diversity losses against member by member autograd and plain formulas."""

from typing import Any

import pytest
import torch

from tests.values.test_ensemble import F, make_critics
from worldmodels.distributions import default_bins
from worldmodels.values.diversity import cosine, diversity, spread

SPAN = torch.tensor(4.0)


def soft_value(critics, i: int, point: torch.Tensor, span: torch.Tensor) -> torch.Tensor:
    """Expectation of critic i over the bins within a span, and its prior, in spans."""
    weights = critics.critics.members[i](point).double().exp()
    near = [(w, b) for w, b in zip(weights, default_bins().double(), strict=True) if abs(b) <= span]
    mean = sum(w * b for w, b in near) / sum(w for w, _ in near)
    return (mean + critics.priors(point[None])[i, 0].double()) / span


def test_cosine_against_pairs_of_gradients():
    critics = make_critics(critics=3, prior_scale=0.3, reach_penalty=0.0)
    critics(torch.randn(4, 2, F))  # settles the priors
    feature = torch.randn(5, F)
    found = cosine(critics, feature, SPAN)
    expected = []
    for row in feature:
        slopes = []
        for i in range(3):
            point = row.clone().requires_grad_()
            value = soft_value(critics, i, point, SPAN)
            slopes.append(torch.autograd.grad(value, point)[0].double())
        unit = [g / (g.norm() + 1e-2) for g in slopes]
        pairs = [unit[i] @ unit[j] for i in range(3) for j in range(3) if i != j]
        expected.append(sum(pairs) / 6)
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_cosine_reaches_the_critics_by_second_derivatives():
    """Its gradient by a parameter against a central difference."""
    critics = make_critics(critics=2, prior_scale=0.0, reach_penalty=0.0).double()
    feature = torch.randn(3, F, dtype=torch.float64)
    head: Any = critics.critics.members[0]
    weight = head.mlp[0].weight
    slope = torch.autograd.grad(cosine(critics, feature, SPAN).sum(), weight)[0][0, 0]
    with torch.no_grad():
        weight[0, 0] += 1e-3
        up = float(cosine(critics, feature, SPAN).sum().detach())
        weight[0, 0] -= 2e-3
        down = float(cosine(critics, feature, SPAN).sum().detach())
    assert abs(float(slope) - (up - down) / 2e-3) < 1e-3 * max(1.0, abs(float(slope)))
    assert float(slope) != 0


def test_minimising_either_drives_members_apart():
    for kind in ("gradient", "spread"):
        critics = make_critics(critics=3, prior_scale=0.0, reach_penalty=0.0, diversity=kind)
        feature = torch.randn(20, F)
        optimizer = torch.optim.SGD(critics.critics.parameters(), lr=0.02)
        before = diversity(critics, feature, SPAN).mean()
        for _ in range(10):
            optimizer.zero_grad()
            diversity(critics, feature, SPAN).mean().backward()
            optimizer.step()
        after = float(diversity(critics, feature, SPAN).detach().mean())
        assert after < float(before.detach()) - 0.01, kind


def test_spread_stops_at_one():
    members = torch.tensor([[0.5, 0.0, 9.0], [1.5, 0.0, 1.0]], requires_grad=True)
    found = spread(members)
    expected = [-0.6931, -9.2103, 0.0]  # log of 0.5, of 1e-4
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-3)
    grad = torch.autograd.grad(found.sum(), members)[0]
    assert not grad[:, 2].any()
    assert grad[:, 0].tolist() == pytest.approx([-1.0, 1.0])


def test_in_the_loss_it_asks_only_for_two_critics():
    critics = make_critics(critics=2, reach_penalty=0.0, diversity="spread", diversity_weight=0.3)
    feature = torch.randn(4, 3, F)
    losses = critics.losses(critics(feature), feature, SPAN)
    assert losses.keys() == critics.weights().keys() == {"diversity"}
    assert losses["diversity"].shape == (4,)
    assert critics.weights()["diversity"] == 0.3
