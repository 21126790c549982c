"""The tasks of this study: Pendulum beside numbers that mean nothing, Catch with a reward a step.

Importing it registers both with Gymnasium: `gym:tasks:DistractedPendulum-v0` and
`gym:tasks:TrackedCatch-v0`.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

DISTRACTORS = 16
COUPLING = 0.1
ROWS, COLUMNS, DECOYS = 10, 5, 16


class DistractedPendulum(gymnasium.ObservationWrapper):
    """Pendulum-v1, whose 3 numbers are followed by 16 of a chaotic lattice that no action moves.

    x_i' = (1 - c) f(x_i) + c f(x_{i+1}) with f(x) = 1 - 1.9 x^2 and c = 0.1 (a ring of coupled
    logistic maps in [-1, 1]): known exactly to who spends the capacity, of no use to the pendulum.
    """

    def __init__(self, **options: Any):
        super().__init__(gymnasium.make("Pendulum-v1", **options))
        inner = self.env.observation_space
        assert isinstance(inner, spaces.Box)
        ones = np.ones(DISTRACTORS, np.float32)
        low, high = np.concatenate([inner.low, -ones]), np.concatenate([inner.high, ones])
        self.observation_space = spaces.Box(low, high)
        self._lattice = np.zeros(DISTRACTORS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """A lattice of its own in every episode."""
        result = self.env.reset(seed=seed, options=options)
        self._lattice = self.np_random.uniform(-1, 1, DISTRACTORS)
        return self.observation(result[0]), result[1]

    def step(self, action: Any):
        """The lattice moves on by itself."""
        mapped = 1 - 1.9 * self._lattice**2
        self._lattice = (1 - COUPLING) * mapped + COUPLING * np.roll(mapped, -1)
        return super().step(action)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The pendulum's three numbers, then the lattice."""
        return np.concatenate([observation, self._lattice]).astype(np.float32)


class TrackedCatch(gymnasium.Env):
    """Catch before 16 decoys, paid a step: 1 less the columns from ball to paddle.

    Observation and actions as Catch has them, but for the background: bool [10, 5, 17], of which
    all planes but the first show another game, begun at a random row, whose paddle moves at
    random and whose ball falls, and falls anew. Nine steps an episode.
    """

    def __init__(self):
        self.observation_space = spaces.MultiBinary([ROWS, COLUMNS, 1 + DECOYS])
        self.action_space = spaces.Discrete(3)
        self._rows = self._balls = self._paddles = np.zeros(1 + DECOYS, np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """A new ball at the top, the paddle in the middle; decoys are anywhere."""
        super().reset(seed=seed)
        self._rows = self.np_random.integers(ROWS, size=1 + DECOYS)
        self._balls, self._paddles = self.np_random.integers(COLUMNS, size=(2, 1 + DECOYS))
        self._rows[0], self._paddles[0] = 0, 2
        return self._seen(), {}

    def step(self, action: Any):
        """Move the paddles, let the balls fall one row."""
        moves = self.np_random.integers(-1, 2, size=1 + DECOYS)
        moves[0] = int(action) - 1
        self._paddles = np.clip(self._paddles + moves, 0, COLUMNS - 1)
        self._rows = (self._rows + 1) % ROWS
        fresh = self.np_random.integers(COLUMNS, size=1 + DECOYS)
        self._balls = np.where(self._rows == 0, fresh, self._balls)
        reward = 1.0 - abs(int(self._balls[0] - self._paddles[0]))
        return self._seen(), reward, bool(self._rows[0] == ROWS - 1), False, {}

    def _seen(self) -> np.ndarray:
        planes, each = np.zeros((ROWS, COLUMNS, 1 + DECOYS), np.int8), np.arange(1 + DECOYS)
        planes[self._rows, self._balls, each] = planes[ROWS - 1, self._paddles, each] = 1
        return planes


gymnasium.register("DistractedPendulum-v0", "tasks:DistractedPendulum", max_episode_steps=200)
gymnasium.register("TrackedCatch-v0", "tasks:TrackedCatch")
