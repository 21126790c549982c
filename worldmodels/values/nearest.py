"""Distance to the nearest of many points."""

import torch
from torch import Tensor


def nearest(feature: Tensor, points: Tensor, absent: Tensor | None = None) -> Tensor:
    """feature [N, F], points [K, F] -> Euclidean distance [N] to the nearest point; float32.

    `absent` [K] or [N, K], boolean: points that do not count. `cdist` multiplies matrices and is
    wrong by about 1e-3, in TF32 by more: enough to find the nearest, and too much to say how near
    it is where states repeat. Hence that distance is taken anew.
    """
    feature = feature.float()
    rough = torch.cdist(feature, points)
    if absent is not None:
        rough = rough.masked_fill(absent, torch.inf)
    return (feature - points[rough.argmin(1)]).norm(dim=1)
