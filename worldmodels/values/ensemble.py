"""V independent heads on the same features, computed side by side.

Letters: V members, N rows, F feature width, K outputs.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldmodels.backbones.layers import NORM_EPS, Linear, NormSiLU
from worldmodels.heads import Head
from worldmodels.kernels.norm_silu import norm_silu, reference


class Ensemble(nn.Module):
    """`members[i]` are ordinary heads, each initialised and clipped by itself.

    They share nothing but their input: members with a common trunk agree where no data were.
    """

    def __init__(
        self, count: int, in_features: int, units: int, layers: int, out: int, scale: float
    ):
        super().__init__()
        heads = [Head(in_features, units, layers, out, scale) for _ in range(count)]
        self.members = nn.ModuleList(heads)

    def forward(self, feature: Tensor, twice: bool = False) -> Tensor:
        """feature [..., F] -> [V, ..., K]; with `twice`, it can be differentiated twice."""
        if len(self.members) == 1 and not twice:
            return self.members[0](feature).unsqueeze(0)
        activate = cast(Callable[..., Tensor], reference.norm_silu if twice else norm_silu)
        x = feature.flatten(0, -2).expand(len(self.members), -1, -1)  # [V, N, F]
        for layers in zip(*(self._layers(head) for head in self.members), strict=True):
            weight = torch.stack([layer.weight for layer in layers])
            if isinstance(layers[0], NormSiLU):
                x = activate(x, weight.unsqueeze(1), NORM_EPS)
            else:
                bias = torch.stack([layer.bias for layer in layers])
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        return x.unflatten(1, feature.shape[:-1])

    @staticmethod
    def _layers(head: Any) -> list[Linear | NormSiLU]:
        return [*head.mlp, head.output]


def draw_biases(module: nn.Module) -> None:
    """Uniform biases within 1 / sqrt(fan_in), as torch itself draws them, for random functions.

    With none, the norm behind the first layer would leave of a state its direction alone: a random
    function could not tell a far state from a near one.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -bound, bound)
