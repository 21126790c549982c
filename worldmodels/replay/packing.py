"""A model's carry as compact columns of rows, and back.

Letters: N rows, S stochastic groups, C classes per group.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.objects import Carry
from worldmodels.replay.rows import Column

KNOWN = "carry.known"
"""bool: a carry was written at this row."""


class Packing:
    """`z` [S, C], which is exactly one-hot, as class numbers; every other leaf as it is.

    Classes count from 1, so that zeros, which is what an unwritten row holds, unpack to zeros.
    """

    def __init__(self, spec: Mapping[str, LeafSpec]):
        self._spec = dict(spec)
        self._one_hot = {
            name: torch.eye(leaf.shape[-1] + 1, dtype=leaf.dtype)[:, 1:].contiguous()
            for name, leaf in spec.items()
            if _is_classes(name, leaf)
        }
        self.columns = {KNOWN: Column((), np.dtype(np.bool_))}
        for name, leaf in spec.items():
            self.columns[f"carry.{name}"] = _column(name, leaf)

    @property
    def row_bytes(self) -> int:
        """Bytes of one packed row."""
        return sum(column.nbytes for column in self.columns.values())

    def pack(self, carry: Carry) -> dict[str, np.ndarray]:
        """A carry of N rows, on any device -> [N, ...] per column, all of them known."""
        Carry.load(carry.save(), self._spec)
        packed = {KNOWN: np.ones(carry.batch_size, np.bool_)}
        for name, leaf in carry.items():
            column = self.columns[f"carry.{name}"]
            leaf = leaf.detach()
            leaf = (leaf.argmax(-1) + 1 if name in self._one_hot else leaf).cpu()
            bits = leaf.view(torch.int16) if leaf.dtype == torch.bfloat16 else leaf
            packed[f"carry.{name}"] = bits.numpy().astype(column.dtype, copy=False)
        return packed

    def unpack(self, columns: Mapping[str, np.ndarray]) -> Carry:
        """[N, ...] per column -> the carry, zeros where unknown; leaves may share memory."""
        return Carry(
            {
                name: self._leaf(name, leaf, torch.from_numpy(columns[f"carry.{name}"]))
                for name, leaf in self._spec.items()
            }
        )

    def _leaf(self, name: str, spec: LeafSpec, packed: Tensor) -> Tensor:
        if name in self._one_hot:
            rows = self._one_hot[name].index_select(0, packed.flatten().int())
            return rows.view(-1, *spec.shape)
        return packed.view(torch.bfloat16) if spec.dtype == torch.bfloat16 else packed


def _is_classes(name: str, spec: LeafSpec) -> bool:
    return name == "z" and len(spec.shape) == 2


def _column(name: str, spec: LeafSpec) -> Column:
    if _is_classes(name, spec):
        groups, classes = spec.shape
        return Column((groups,), np.dtype(np.uint8 if classes <= 255 else np.int16))
    if spec.dtype == torch.bfloat16:  # numpy has no such type: its bits travel as int16
        return Column(spec.shape, np.dtype(np.int16))
    return Column(spec.shape, torch.empty(0, dtype=spec.dtype).numpy().dtype)
