"""Memory for batches that is used again only once nothing refers to it any more."""

import weakref
from math import prod

import numpy as np

SMALL = 1 << 20
"""Bytes below which memory is simply allocated."""
SPARE = 2
"""Unused arrays kept per shape: the batch in use and the one before it."""


class BufferPool:
    """Lends arrays; the system takes as long to hand out fresh pages as we take to fill them.

    What is lent is a view. A tensor made from it keeps that view alive, and so does everything
    that shares the tensor's storage: when the view dies, no one can see the memory any more.
    """

    def __init__(self):
        self._spare: dict[tuple, list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with arbitrary contents that nobody else can see."""
        array_bytes = prod(shape) * dtype.itemsize
        if array_bytes < SMALL or dtype.kind == "V":  # a view of opaque bytes does not keep them
            return np.empty(shape, dtype)
        spare = self._spare.setdefault((shape, dtype.str), [])
        array = spare.pop() if spare else np.empty(shape, dtype)
        lent = array.view()
        weakref.finalize(lent, self._give_back, spare, array).atexit = False
        return lent

    @staticmethod
    def _give_back(spare: list[np.ndarray], array: np.ndarray) -> None:
        if len(spare) < SPARE:
            spare.append(array)
