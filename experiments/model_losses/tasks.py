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
ROWS, COLUMNS, BACKGROUNDS = 10, 5, 16


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
    """Catch with a moving background, paid a step: 1 less the columns from ball to paddle.

    Observation, actions and background as `catch --env.background 0.5` has them, but for its 16
    planes: bool [10, 5, 17], of which all but the first hold a pattern that falls a row a step,
    with 80 new random cells at the top. Nine steps an episode.
    """

    def __init__(self):
        self.observation_space = spaces.MultiBinary([ROWS, COLUMNS, 1 + BACKGROUNDS])
        self.action_space = spaces.Discrete(3)
        self._row = self._ball = self._paddle = 0
        self._pattern = np.zeros((ROWS, COLUMNS, BACKGROUNDS), bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """A new ball at the top, the paddle in the middle."""
        super().reset(seed=seed)
        self._row, self._ball, self._paddle = 0, int(self.np_random.integers(COLUMNS)), 2
        self._pattern = self._lit(ROWS)
        return self._seen(), {}

    def step(self, action: Any):
        """Move the paddle, let ball and background fall one row."""
        self._paddle = min(max(self._paddle + int(action) - 1, 0), COLUMNS - 1)
        self._row += 1
        self._pattern = np.concatenate([self._lit(1), self._pattern[:-1]])
        reward = 1.0 - abs(self._ball - self._paddle)
        return self._seen(), reward, self._row == ROWS - 1, False, {}

    def _lit(self, rows: int) -> np.ndarray:
        return self.np_random.random((rows, COLUMNS, BACKGROUNDS)) < 0.5

    def _seen(self) -> np.ndarray:
        planes = np.zeros((ROWS, COLUMNS, 1 + BACKGROUNDS), np.int8)
        planes[self._row, self._ball, 0] = planes[ROWS - 1, self._paddle, 0] = 1
        planes[..., 1:] = self._pattern
        return planes


gymnasium.register("DistractedPendulum-v0", "tasks:DistractedPendulum", max_episode_steps=200)
gymnasium.register("TrackedCatch-v0", "tasks:TrackedCatch")
