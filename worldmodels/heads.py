"""Heads: an MLP and an output layer on the model state's feature."""

from torch import Tensor, nn

from worldmodels.backbones.layers import MLP, Linear


class Head(nn.Module):
    """`layers` hidden layers, then a linear output whose initial weights are scaled by `scale`."""

    def __init__(self, in_features: int, units: int, layers: int, out_features: int, scale: float):
        super().__init__()
        self.mlp = MLP(in_features, units, layers)
        self.output = Linear(units, out_features, scale)

    def forward(self, feature: Tensor) -> Tensor:
        """feature [..., F] -> [..., out]."""
        return self.output(self.mlp(feature))
