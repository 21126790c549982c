"""Sums over a tree of weights: changing one and drawing one both cost O(log n)."""

import numpy as np


class SumTree:
    """n weights >= 0 as the leaves of a binary tree whose nodes hold the sums of their children.

    Sums are computed from their children anew, never by differences, so no error accumulates.
    """

    def __init__(self, size: int):
        self._leaves = 1 << max(size - 1, 1).bit_length()
        self._sums = np.zeros(2 * self._leaves)
        """float64; node i has the children 2i and 2i + 1, the leaves come last."""

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._sums[1])

    def weights(self, leaves: np.ndarray) -> np.ndarray:
        """float64 [N] of leaves int64 [N]."""
        return self._sums[self._leaves + leaves]

    def set(self, leaves: np.ndarray, weights: np.ndarray | float) -> None:
        """Change the weights of leaves int64 [N]."""
        nodes = self._leaves + leaves
        self._sums[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """For each target float64 [N] in [0, total): the first leaf at which the running sum of
        the weights exceeds it, int64 [N].
        """
        nodes = np.ones(len(targets), np.int64)
        targets = targets.copy()
        while nodes[0] < self._leaves:
            nodes *= 2
            left = self._sums[nodes]
            # Rounding may carry a target to a child of weight zero: the other one is meant.
            right = (targets >= left) & (self._sums[nodes + 1] > 0)
            targets -= np.where(right, left, 0.0)
            nodes += right
        return nodes - self._leaves
