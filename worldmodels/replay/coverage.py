"""Coverage maximisation: the rollouts that are far from all others stay.

Letters: K rollouts kept, D features of a rollout.
"""

from collections.abc import Mapping

import numpy as np

from worldmodels.replay.retention import Reservoir, Room
from worldmodels.replay.rows import Rollout
from worldmodels.replay.segment import Segment

FEATURES = 64
FRAMES = 16
"""Rows of a rollout that are looked at, evenly spaced."""
COMPARED = 1000
"""Rollouts that a new one is compared with, at most."""


class Coverage(Reservoir):
    """Keeps the rollouts whose median distance to the others was largest when they arrived.

    Continual-Dreamer's coverage rule (Kessler et al. 2023, arXiv 2211.15944): a fixed random
    network embeds a rollout, its key is the median Euclidean distance to at most 1000 stored ones,
    the smallest key leaves. Departure: the network is tanh of a random projection, averaged over
    frames, where theirs is a random convolutional LSTM.
    """

    name = "coverage-maximising set"

    def __init__(self, room: Room):
        super().__init__(room)
        self._projections: dict[str, np.ndarray] = {}
        self._embeddings: dict[int, np.ndarray] = {}
        """Id of the first row -> float32 [D]."""

    def key(self, segment: Segment, rollout: Rollout) -> float:
        """The median distance to what is kept; the first two get the distance between them."""
        embedding = self._embed(rollout)
        kept = [self._embeddings[first] for _, first in self._heap]
        self._embeddings[segment.first] = embedding
        if not kept:
            return 0.0
        if len(kept) == 1:
            ((_, first),) = self._heap
            self._heap[0] = float(np.linalg.norm(kept[0] - embedding)), first
        if len(kept) > COMPARED:
            random = np.random.default_rng([self._seed, segment.first])
            kept = [kept[i] for i in random.choice(len(kept), COMPARED, replace=False)]
        return float(np.median(np.linalg.norm(np.array(kept) - embedding, axis=1)))

    def save(self) -> dict[str, np.ndarray]:
        """Embeddings too, in the order of the segments."""
        saved = super().save()
        rows = [self._embeddings[first] for first in saved["segments"].tolist()]
        return {**saved, "embeddings": np.array(rows, np.float32)}

    def load(self, saved: Mapping[str, np.ndarray], segments: Mapping[int, Segment]) -> None:
        """Inverse of `save`."""
        super().load(saved, segments)
        self._embeddings.clear()
        if saved:
            pairs = zip(saved["segments"].tolist(), saved["embeddings"], strict=True)
            self._embeddings.update(pairs)

    def _forget(self, segment: Segment) -> None:
        super()._forget(segment)
        del self._embeddings[segment.first]

    def _embed(self, rollout: Rollout) -> np.ndarray:
        """Rows of all observations -> float32 [D]."""
        total = np.zeros(FEATURES, np.float32)
        for name, values in sorted(rollout.obs.items()):
            rows = np.unique(np.linspace(0, len(values) - 1, FRAMES).astype(np.int64))
            flat = values[rows].reshape(len(rows), -1).astype(np.float32)
            if values.dtype == np.uint8:
                flat /= 255
            total += np.tanh(flat @ self._projection(name, flat.shape[1])).mean(0)
        return total

    def _projection(self, name: str, size: int) -> np.ndarray:
        """Fixed [size, D]; a function of the seed and the observation's name."""
        if name not in self._projections:
            random = np.random.default_rng([self._seed, *name.encode()])
            values = random.standard_normal((size, FEATURES)) / np.sqrt(size)
            self._projections[name] = values.astype(np.float32)
        return self._projections[name]
