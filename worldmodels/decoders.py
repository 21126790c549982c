"""Decoders: (h, z) -> a prediction per observation key, and its loss.

Source: DreamerV3 (arXiv 2301.04104, 2025 form). Letters: N rows, D width of h, S groups, C classes.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodels.backbones.layers import MLP, BlockLinear, Linear, NormSiLU
from worldmodels.distributions import symexp, symlog
from worldmodels.encoders import MULTIPLIERS, ChannelNormSiLU, Conv, chunk_rows
from worldmodels.envs.spec import ObsSpec
from worldmodels.kernels.sigmoid_error import sigmoid_error

BLOCKS = 8
"""Blocks of the linear map from h to the smallest image."""


class UpsampleConv(Conv):
    """Nearest upsampling by 2, then a 5x5 convolution, computed at the low resolution.

    Every output pixel of one parity sees only 3x3 low-resolution pixels, each with the sum of the
    taps that fall on it: four 3x3 convolutions, 36 multiplications per pixel instead of 100.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)
        # taps[p, r, k] = 1 where tap k of output parity p reads row r - 1 of the low resolution.
        taps = torch.zeros(2, 3, 5)
        for parity in range(2):
            for k in range(5):
                taps[parity, (parity + k - 2) // 2 + 1, k] = 1.0
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """input [N, C_in, h, w] -> [N, C_out, 2 h, 2 w]."""
        weight = torch.einsum("pyj,qxk,oijk->opqiyx", self.taps, self.taps, self.weight)
        weight = weight.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        assert self.bias is not None
        out = F.conv2d(input, weight, self.bias.repeat_interleave(4), padding=1)
        return F.pixel_shuffle(out, 2)


class ImageDecoder(nn.Module):
    """(h, z) -> image logits [N, H, W, C]."""

    def __init__(self, shape: tuple[int, ...], deter: int, stoch: int, depth: int, units: int):
        super().__init__()
        height, width, channels = shape
        sizes = [depth * m for m in MULTIPLIERS]
        self.small = (height // 16, width // 16, sizes[-1])
        size = torch.Size(self.small).numel()
        self.from_h = BlockLinear(deter, size, BLOCKS)
        self.from_z = nn.Sequential(
            Linear(stoch, 2 * units), NormSiLU(2 * units), Linear(2 * units, size)
        )
        self.norm = ChannelNormSiLU(sizes[-1])
        path = [*reversed(sizes[:-1])]
        self.convs = nn.ModuleList(
            UpsampleConv(a, b) for a, b in zip([sizes[-1], *path[:-1]], path, strict=True)
        )
        self.norms = nn.ModuleList(ChannelNormSiLU(size) for size in path)
        self.final = UpsampleConv(path[-1], channels)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """h [N, D], z [N, S C] -> logits [N, H, W, C]; pixels are their sigmoid."""
        height, width, _ = self.small
        x = rearrange(self.from_h(h), "n (g h w c) -> n h w (g c)", g=BLOCKS, h=height, w=width)
        x = (x + self.from_z(z).view_as(x)).permute(0, 3, 1, 2)
        x = self.norm(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x))
        return self.final(x).permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """(h, z) -> the observation dict, with one loss per key."""

    def __init__(
        self,
        obs: dict[str, ObsSpec],
        deter: int,
        stoch: int,
        depth: int,
        units: int,
        layers: int = 3,
    ):
        super().__init__()
        self.specs = dict(sorted(obs.items()))
        self.image_keys = [key for key, spec in self.specs.items() if spec.kind == "image"]
        self.flat_keys = [key for key in self.specs if key not in self.image_keys]
        self.images = nn.ModuleList(
            ImageDecoder(obs[key].shape, deter, stoch, depth, units) for key in self.image_keys
        )
        self.outputs = nn.ModuleList(
            Linear(units, torch.Size(obs[key].shape).numel()) for key in self.flat_keys
        )
        self.mlp = MLP(deter + stoch, units, layers) if self.outputs else None

    def forward(self, h: Tensor, z: Tensor) -> dict[str, Tensor]:
        """h [N, D], z [N, S, C] -> raw predictions [N, ...] per key (see `predict`, `loss`)."""
        z = z.flatten(1)
        raw = {k: image(h, z) for k, image in zip(self.image_keys, self.images, strict=True)}
        if self.mlp is not None:
            features = self.mlp(torch.cat([h, z], -1))
            for key, output in zip(self.flat_keys, self.outputs, strict=True):
                raw[key] = output(features).view(-1, *self.specs[key].shape)
        return raw

    def loss(self, h: Tensor, z: Tensor, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss [N] per key of predicting obs [N, ...] from h [N, D], z [N, S, C].

        Images: squared error on [0, 1]; planes: binary cross-entropy; vectors: squared error of
        symlog; summed over an observation, in float32.
        """
        rows = chunk_rows(h.device)
        parts = [
            self._loss(
                self(h[i : i + rows], z[i : i + rows]), {k: x[i : i + rows] for k, x in obs.items()}
            )
            for i in range(0, h.shape[0], rows)
        ]
        return {key: torch.cat([part[key] for part in parts]) for key in self.specs}

    def _loss(self, raw: dict[str, Tensor], obs: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {}
        for key, spec in self.specs.items():
            if spec.kind == "image":
                losses[key] = sigmoid_error(raw[key], obs[key])
                continue
            output, target = raw[key].float().flatten(1), obs[key].flatten(1).float()
            if spec.kind == "planes":
                bce = F.binary_cross_entropy_with_logits(output, target, reduction="none")
                losses[key] = bce.sum(-1)
            else:
                losses[key] = (output - symlog(target)).square().sum(-1)
        return losses

    def predict(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw predictions -> images and planes in [0, 1], vectors in their own units."""
        return {
            key: symexp(raw[key].float()) if spec.kind == "vector" else raw[key].float().sigmoid()
            for key, spec in self.specs.items()
        }
