"""A model's carry as one compact column of rows, and back.

Letters: N rows, S stochastic groups, C classes per group.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.objects import Carry
from worldmodels.replay.rows import Column

KNOWN = "known"
"""The field that says that a carry was written at this row."""


class Packing:
    """`z` [S, C], which is exactly one-hot, as class numbers; every other leaf as it is.

    Classes count from 1, so that zeros, which is what an unwritten row holds, unpack to zeros.
    """

    def __init__(self, spec: Mapping[str, LeafSpec]):
        self._spec = dict(spec)
        fields = [(name, *_packed(name, leaf)) for name, leaf in spec.items()]
        self._record = np.dtype([(KNOWN, np.bool_, ()), *fields])
        self.column = Column((), np.dtype((np.void, self._record.itemsize)))
        """A packed carry is opaque bytes, as a row's record is."""
        self._one_hot = {
            name: torch.eye(leaf.shape[-1] + 1, dtype=leaf.dtype)[:, 1:].contiguous()
            for name, leaf in spec.items()
            if _is_classes(name, leaf)
        }

    def pack(self, carry: Carry) -> np.ndarray:
        """A carry of N rows, on any device -> [N], all of them known."""
        Carry.load(carry.save(), self._spec)
        record = np.empty(carry.batch_size, self._record)
        record[KNOWN] = True
        for name, leaf in carry.items():
            leaf = leaf.detach()
            leaf = (leaf.argmax(-1) + 1 if name in self._one_hot else leaf).cpu()
            bits = leaf.view(torch.int16) if leaf.dtype == torch.bfloat16 else leaf
            record[name] = bits.numpy()
        return record.view(self.column.dtype)

    def unpack(self, column: np.ndarray) -> tuple[Carry, np.ndarray]:
        """[N] -> the carry, zeros where unknown; and which rows are known, bool [N]."""
        record = column.view(self._record)
        leaves = {
            name: self._leaf(name, leaf, torch.from_numpy(record[name].copy()))
            for name, leaf in self._spec.items()
        }
        return Carry(leaves), record[KNOWN]

    def _leaf(self, name: str, spec: LeafSpec, packed: Tensor) -> Tensor:
        if name in self._one_hot:
            rows = self._one_hot[name].index_select(0, packed.flatten().int())
            return rows.view(-1, *spec.shape)
        return packed.view(torch.bfloat16) if spec.dtype == torch.bfloat16 else packed


def _is_classes(name: str, spec: LeafSpec) -> bool:
    return name == "z" and len(spec.shape) == 2


def _packed(name: str, spec: LeafSpec) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of one row of a leaf."""
    if _is_classes(name, spec):
        groups, classes = spec.shape
        return np.dtype(np.uint8 if classes <= 255 else np.int16), (groups,)
    if spec.dtype == torch.bfloat16:  # numpy has no such type: its bits travel as int16
        return np.dtype(np.int16), spec.shape
    return torch.empty(0, dtype=spec.dtype).numpy().dtype, spec.shape
