"""Gradient diversity against one critic at a time, one pair at a time."""

import math

import pytest
import torch
from torch import Tensor

from worldmodels.control.critics import Critics, diversity

N, B, S, A = 4, 3, 5, 2


def critics() -> Critics:
    model = Critics(N, S, A, 8, 2).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def slopes_one_by_one(model: Critics, state: Tensor, action: Tensor) -> Tensor:
    """dQ_i/da [N, B, A], a row and a critic at a time."""
    rows = []
    for i in range(N):
        for b in range(len(state)):
            a = action[b : b + 1].clone().requires_grad_()
            value = model(state[b : b + 1], a)[i, 0]
            rows.append(torch.autograd.grad(value, a)[0][0])
    return torch.stack(rows).view(N, len(state), A)


def loop(slope: Tensor) -> list[float]:
    found = []
    for b in range(slope.shape[1]):
        unit = []
        for i in range(N):
            g = [float(x) for x in slope[i, b]]
            norm = math.sqrt(sum(x * x for x in g)) + 1e-10
            unit.append([x / norm for x in g])
        pairs = [(i, j) for i in range(N) for j in range(N) if i != j]
        cosines = [sum(x * y for x, y in zip(unit[i], unit[j], strict=True)) for i, j in pairs]
        found.append(sum(cosines) / (N - 1))
    return found


def test_slopes_and_diversity_are_those_of_single_critics():
    model, state, action = critics(), torch.randn(B, S).double(), torch.randn(B, A).double()
    value, slope = model.with_slopes(state, action)
    torch.testing.assert_close(value, model(state, action))
    expected = slopes_one_by_one(model, state, action)
    torch.testing.assert_close(slope, expected)
    assert diversity(slope).tolist() == pytest.approx(loop(expected), abs=1e-9)


def test_one_gradient_for_all_is_the_worst():
    """Equal gradients give N, opposite pairs 0 less: sum of cosines / (N - 1)."""
    one = torch.tensor([[1.0, 2.0]]).expand(N, 1, A)
    assert float(diversity(one)) == pytest.approx(N)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None, None]
    assert float(diversity(one * signs)) == pytest.approx(-N / (N - 1))
    assert float(diversity(torch.zeros(N, 1, A))) == 0


def test_its_gradient_is_the_second_derivative():
    """Against central differences of the single-critic loop, for one weight of every layer."""
    model, state, action = critics(), torch.randn(B, S).double(), torch.randn(B, A).double()
    model.mlp.activation = torch.tanh  # a ReLU's kinks would spoil the differences
    loss = diversity(model.with_slopes(state, action)[1]).mean()
    loss.backward()
    for layer in model.mlp.linears:
        weight = layer.weight
        assert weight.grad is not None
        place, step = (1, 0, 0), 1e-6
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            ends.append(sum(loop(slopes_one_by_one(model, state, action))) / B)
            with torch.no_grad():
                weight[place] -= sign * step
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float(weight.grad[place]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_descending_it_turns_the_gradients_apart():
    torch.manual_seed(0)
    model, state, action = critics(), torch.randn(32, S).double(), torch.randn(32, A).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = last = 0.0
    for step in range(30):
        loss = diversity(model.with_slopes(state, action)[1]).mean()
        first = first if step else loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
    assert last < first - 0.5


def test_every_critic_starts_apart():
    model = Critics(3, 4, 2, 16, 3)
    *hidden, output = model.mlp.linears
    assert len(hidden) == 3
    for layer in hidden:
        bound = 1 / math.sqrt(layer.weight.shape[1])
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert layer.bias.detach().unique().tolist() == [pytest.approx(0.1)]
    for parameter in output.parameters():
        assert 0 < float(parameter.detach().abs().max()) <= 3e-3
    for layer in (*hidden, output):
        assert not torch.equal(layer.weight[0], layer.weight[1])
