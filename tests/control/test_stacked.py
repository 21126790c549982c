"""Networks side by side are N networks by themselves: values, gradients, independence."""

from typing import Any

import pytest
import torch
from torch import nn

from worldmodels.control.stacked import StackedMLP

N, B, IN, OUT = 4, 5, 3, 2


def stacked() -> StackedMLP:
    mlp = StackedMLP(N, IN, OUT, 6, 2, torch.tanh).double()
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    return mlp


def alone(mlp: StackedMLP, i: int) -> nn.Sequential:
    """Member i out of plain linear layers."""
    layers = []
    for stacked in mlp.linears:
        outputs = stacked.weight.shape[2]
        layer = nn.Linear(stacked.weight.shape[1], outputs, dtype=torch.float64)
        layer.weight.data = stacked.weight[i].detach().T.clone()
        layer.bias.data = stacked.bias[i, 0].detach().clone()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("own", [False, True])
def test_equals_single_networks(own):
    mlp = stacked()
    x = torch.randn(N, B, IN, dtype=torch.float64) if own else torch.randn(B, IN).double()
    x.requires_grad_()
    found = mlp(x)
    assert found.shape == (N, B, OUT)
    loss = (found * torch.arange(1, N + 1)[:, None, None]).square().sum()
    mine = torch.autograd.grad(loss, [x, *mlp.parameters()], retain_graph=True)
    for i in range(N):
        single = alone(mlp, i)
        y = x.detach()[i] if own else x.detach()
        one = single(y.requires_grad_())
        torch.testing.assert_close(found[i], one)
        (one * (i + 1)).square().sum().backward()
        for layer, number in zip(mlp.linears, range(0, 6, 2), strict=True):
            plain: Any = single[number]
            names = [name for name, _ in mlp.named_parameters()]
            at = names.index(f"layers.{number // 2}.weight")
            torch.testing.assert_close(mine[1 + at][i], plain.weight.grad.T)
            torch.testing.assert_close(mine[2 + at][i, 0], plain.bias.grad)
            assert layer.weight.shape[0] == N
        if own:
            torch.testing.assert_close(mine[0][i], y.grad)


def test_no_member_moves_another():
    mlp = stacked()
    mlp(torch.randn(B, IN).double())[2].sum().backward()
    for parameter in mlp.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [False, False, True, False]


def test_frozen_networks_pass_the_gradient_on():
    mlp = stacked()
    x = torch.randn(B, IN, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    mlp(x, frozen=True).sum().backward()
    assert all(parameter.grad is None for parameter in mlp.parameters())
    mlp(y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.grad)
