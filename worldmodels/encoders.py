"""Encoders: a dict of observations -> one vector of tokens per row.

Source: DreamerV3 (arXiv 2301.04104, 2025 form). Images pass 5x5 convolutions with 2x2 max-pooling,
norm and activation; planes and vectors pass an MLP. Letters: N rows, E token width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from worldmodels.backbones.layers import MLP, NORM_EPS, init_weight
from worldmodels.distributions import symlog
from worldmodels.envs.spec import ObsSpec
from worldmodels.kernels.max_pool import max_pool
from worldmodels.kernels.norm_silu import norm_silu

MULTIPLIERS = (2, 3, 4, 4)
"""Channels of the four stages, as multiples of `depth`."""

CPU_IMAGES = 128
"""Images per pass on a CPU."""


class Conv(nn.Conv2d):
    """5x5, stride 1, same padding, channels-last weights, DreamerV3's initialisation."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 5, padding=2)
        self.weight = nn.Parameter(self.weight.contiguous(memory_format=torch.channels_last))

    def reset_parameters(self) -> None:
        """Called by nn.Conv2d's constructor."""
        init_weight(self.weight, self.in_channels * 25)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class ChannelNormSiLU(nn.Module):
    """RMS norm over the channels of [N, C, h, w], then SiLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, h, w] in channels-last memory -> the same."""
        y = x.permute(0, 2, 3, 1)  # a contiguous view where x is channels-last
        return norm_silu(y, self.weight, NORM_EPS).permute(0, 3, 1, 2)


class ImageEncoder(nn.Module):
    """[N, H, W, C] uint8 -> [N, H/16 * W/16 * 4 depth]."""

    def __init__(self, shape: tuple[int, ...], depth: int):
        super().__init__()
        height, width, channels = shape
        if height % 16 or width % 16:
            raise ValueError(f"the sides of an image are multiples of 16, not {height} x {width}")
        sizes = [channels] + [depth * m for m in MULTIPLIERS]
        self.convs = nn.ModuleList(Conv(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(ChannelNormSiLU(size) for size in sizes[1:])
        self.output_size = (height // 16) * (width // 16) * sizes[-1]

    def forward(self, image: Tensor) -> Tensor:
        """Pool first, then norm and activation; pixels are scaled to [-0.5, 0.5]."""
        return torch.cat([self._tokens(part) for part in image.split(chunk_rows(image.device))])

    def _tokens(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255 - 0.5
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(max_pool(conv(x)))
        return x.permute(0, 2, 3, 1).flatten(1)


def chunk_rows(device: torch.device) -> int:
    """Images per pass through a convolutional stack.

    On a CPU the activations of a few images fit its cache; an accelerator takes them all at once.
    """
    return CPU_IMAGES if device.type == "cpu" else 2**31


class Encoder(nn.Module):
    """An observation dict -> tokens [N, E]: each image by itself, all the rest through one MLP."""

    def __init__(self, obs: dict[str, ObsSpec], depth: int, units: int, layers: int = 3):
        super().__init__()
        self.specs = dict(sorted(obs.items()))
        self.image_keys = [key for key, spec in self.specs.items() if spec.kind == "image"]
        self.flat_keys = [key for key in self.specs if key not in self.image_keys]
        self.images = nn.ModuleList(ImageEncoder(obs[key].shape, depth) for key in self.image_keys)
        flat = sum(torch.Size(obs[key].shape).numel() for key in self.flat_keys)
        self.mlp = MLP(flat, units, layers) if flat else None
        self.output_size = sum(image.output_size for image in self.images)  # type: ignore
        self.output_size += units if flat else 0

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """obs [N, ...] per key -> [N, E]."""
        pairs = zip(self.images, self.image_keys, strict=True)
        tokens = [image(obs[key]) for image, key in pairs]
        if self.mlp is not None:
            flat = [vector_input(obs[key], self.specs[key]) for key in self.flat_keys]
            tokens.append(self.mlp(torch.cat(flat, -1)))
        return torch.cat(tokens, -1)


def vector_input(x: Tensor, spec: ObsSpec) -> Tensor:
    """Planes as 0 and 1, vectors as symlog: [N, ...] -> float32 [N, size]."""
    x = x.float().flatten(1)
    return symlog(x) if spec.kind == "vector" else x
