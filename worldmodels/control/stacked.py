"""N networks of the same shape side by side, their weights stacked along a leading axis.

Letters: N networks, B rows, I inputs, O outputs.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


def full(x: Tensor) -> Tensor:
    """What autocast made half precision as float32, of which losses are made."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class StackedLinear(nn.Module):
    """N linear layers, of which none knows the others: y_i = x_i W_i + b_i."""

    def __init__(self, networks: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(networks, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(networks, 1, outputs))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """x [N, B, I] -> [N, B, O]; `frozen` parameters get no gradient, x still does."""
        weight, bias = self.weight, self.bias
        if frozen:
            weight, bias = weight.detach(), bias.detach()
        return torch.baddbmm(bias, x, weight)


class StackedMLP(nn.Module):
    """N multilayer perceptrons: `layers` hidden layers of `units`, then a linear output."""

    def __init__(
        self,
        networks: int,
        inputs: int,
        outputs: int,
        units: int,
        layers: int,
        activation: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.networks, self.activation = networks, activation
        widths = [inputs, *[units] * layers, outputs]
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(StackedLinear(networks, *pair) for pair in pairs)

    @property
    def linears(self) -> list[StackedLinear]:
        """The layers, the output last."""
        return cast(list[StackedLinear], list(self.layers))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """x [B, I], or one input for each network [N, B, I] -> [N, B, O], at least float32."""
        x = x.expand(self.networks, *x.shape[-2:])
        *hidden, output = self.linears
        for layer in hidden:
            x = self.activation(layer(x, frozen))
        return full(output(x, frozen))
