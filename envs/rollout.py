"""Random play: rows of one environment under a uniform policy, and how two streams differ."""

from dataclasses import fields

import numpy as np

from worldmodels.envs.spec import ActionSpec, Env, Step


def random_action(spec: ActionSpec, random: np.random.Generator) -> np.ndarray:
    """One uniform action: int64 scalar, or float32 [size] in [-1, 1]."""
    if spec.kind == "discrete":
        return np.asarray(random.integers(spec.size))
    return random.uniform(-1, 1, spec.size).astype(np.float32)


class RandomPlay:
    """Plays one environment at random and resets it wherever an episode ends."""

    def __init__(self, env: Env, seed: int, running: bool = False):
        self.env = env
        self.running = running
        """The next row is a step; otherwise it is a reset."""
        self._random = np.random.default_rng(seed)

    def row(self) -> Step:
        """The next row of the stream."""
        # Drawn for reset rows too, so that two streams use the same action at the same row.
        action = random_action(self.env.spec.action, self._random)
        row = self.env.step(action) if self.running else self.env.reset()
        self.running = not np.all(row.is_last)
        return row

    def rows(self, count: int) -> list[Step]:
        """The next `count` rows."""
        return [self.row() for _ in range(count)]


def first_difference(left: list[Step], right: list[Step]) -> str | None:
    """`row 7, reward`: the first place where two streams of equal length differ, or None.

    Bit for bit, so that NaN equals NaN.
    """
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        for key in a.obs.keys() | b.obs.keys():
            if not (key in a.obs and key in b.obs and _same(a.obs[key], b.obs[key])):
                return f"row {index}, observation '{key}'"
        for field in fields(Step):
            if field.name != "obs" and not _same(getattr(a, field.name), getattr(b, field.name)):
                return f"row {index}, {field.name}"
    return None


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and (left.tobytes() == right.tobytes())
    )
