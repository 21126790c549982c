"""N critics Q_i(s, a), and what keeps them apart.

Source: EDAC (An et al. 2021, arXiv 2110.01548, eq. 7), as the code of RAVL (Sims et al. 2024, arXiv
2402.12527) has it. Letters: N critics, B rows, F feature width, A action size.
"""

import math

import torch
from torch import Tensor, nn

from worldmodels.control.stacked import StackedMLP


class Critics(nn.Module):
    """N multilayer perceptrons of (s, a); `layers` hidden ReLU layers of `units`."""

    def __init__(self, critics: int, feature: int, action: int, units: int, layers: int):
        super().__init__()
        self.mlp = StackedMLP(critics, feature + action, 1, units, layers, torch.relu)
        *hidden, output = self.mlp.linears
        for layer in hidden:
            bound = 1 / math.sqrt(layer.weight.shape[1])
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.constant_(layer.bias, 0.1)
        for parameter in output.parameters():
            nn.init.uniform_(parameter, -3e-3, 3e-3)

    def forward(self, state: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """state [B, F], action [B, A] or one for each critic [N, B, A] -> values [N, B].

        `frozen` parameters get no gradient; state and action still do.
        """
        state = state.expand(*action.shape[:-1], -1)
        return self.mlp(torch.cat([state, action], -1), frozen).squeeze(-1)

    def with_slopes(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Values [N, B] and dQ_i/da [N, B, A] at the data, both with a graph of their own."""
        each = action.detach().expand(self.mlp.networks, *action.shape).clone().requires_grad_()
        value = self(state, each)
        (slope,) = torch.autograd.grad(value.sum(), each, create_graph=True)
        return value, slope


def diversity(slope: Tensor) -> Tensor:
    """slope [N, B, A] -> [B]: sum over i != j of <g_i, g_j> / (N - 1), with g_i of norm 1.

    All pairs at once: |sum_i g_i|^2 - sum_i |g_i|^2.
    """
    unit = slope / (slope.norm(dim=-1, keepdim=True) + 1e-10)
    pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, -1))
    return pairs / (len(slope) - 1)
