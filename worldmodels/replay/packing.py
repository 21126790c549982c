"""A model's carry as one compact row of bytes, and back, on any device.

Letters: N rows, S stochastic groups, C classes per group.
"""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.objects import Carry
from worldmodels.replay.rows import Column


class Packing:
    """`z` [S, C], which is exactly one-hot, as class numbers; every other leaf as it is; and a
    last byte that says that a carry was written here.

    Classes count from 1, so that zeros, which is what an unwritten row holds, unpack to zeros.
    """

    def __init__(self, spec: Mapping[str, LeafSpec]):
        self._spec = dict(spec)
        packed = {name: _packed(name, leaf) for name, leaf in spec.items()}
        # The widest types first, so that every leaf is aligned in its row.
        names = sorted(packed, key=lambda name: -packed[name][0].itemsize)
        self._parts: dict[str, tuple[torch.dtype, int, int]] = {}
        """Leaf -> type, first and last byte."""
        size = 0
        for name in names:
            kind, shape = packed[name]
            end = size + prod(shape) * kind.itemsize
            self._parts[name] = kind, size, end
            size = end
        self.column = Column((), np.dtype((np.void, size + 1)))
        """A packed carry is opaque bytes, as a row's record is."""

    def pack(self, carry: Carry) -> Tensor:
        """A carry of N rows -> uint8 [N, bytes] on its device, all of them known."""
        Carry.load(carry.save(), self._spec)
        count = carry.batch_size
        parts = []
        for name, (kind, _, _) in self._parts.items():
            leaf = carry[name].detach()
            leaf = (leaf.argmax(-1) + 1).to(kind) if self._is_classes(name) else leaf
            flat = leaf.reshape(count, prod(leaf.shape[1:]))  # -1 would not do for no rows
            parts.append(flat.contiguous().view(torch.uint8))
        known = torch.ones(count, 1, dtype=torch.uint8, device=parts[0].device)
        return torch.cat([*parts, known], 1)

    def unpack(self, rows: Tensor) -> tuple[Carry, Tensor]:
        """uint8 [N, bytes] -> the carry, zeros where unknown; which rows are known, bool [N]."""
        leaves = {}
        for name, leaf in self._spec.items():
            kind, first, last = self._parts[name]
            packed = rows[:, first:last].clone(memory_format=torch.contiguous_format).view(kind)
            if self._is_classes(name):
                classes = torch.arange(1, leaf.shape[-1] + 1, device=rows.device)
                packed = (packed.unsqueeze(-1) == classes).to(leaf.dtype)
            leaves[name] = packed.view(-1, *leaf.shape)
        return Carry(leaves), rows[:, -1].bool()

    def _is_classes(self, name: str) -> bool:
        return _is_classes(name, self._spec[name])


def _is_classes(name: str, spec: LeafSpec) -> bool:
    return name == "z" and len(spec.shape) == 2


def _packed(name: str, spec: LeafSpec) -> tuple[torch.dtype, tuple[int, ...]]:
    """Type and shape of one row of a leaf."""
    if _is_classes(name, spec):
        groups, classes = spec.shape
        return torch.uint8 if classes <= 255 else torch.int16, (groups,)
    return spec.dtype, spec.shape
