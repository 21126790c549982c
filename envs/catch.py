"""Catch: a ball falls, a paddle waits. The smallest task that learning can be seen on."""

from typing import Any

import numpy as np

from worldmodels.envs.configs import CatchConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step

ROWS, COLUMNS = 10, 5
_MOVES = {"normal": (-1, 0, 1), "reversed": (1, 0, -1), "rotated": (0, 1, -1)}
"""Columns that the paddle moves by, per action."""


class Catch:
    """A ball falls one row a step from a random column; 9 steps on it is caught (+1) or lost (-1).

    Observation: `planes` bool [10, 5, 1], ball and paddle in one plane, or [10, 5, 2] with a moving
    background in the second. Actions: left, stay, right.
    After bsuite's catch (Osband et al. 2020). The options of `CatchConfig` change what is seen and
    what the actions do, never the returns: random play -0.6, the best 1.
    """

    Config = CatchConfig

    _rows_seen = ROWS
    """The ball is drawn while it is in one of this many upper rows."""

    def __init__(self, config: CatchConfig, seed: int):
        self.spec = EnvSpec(
            name=config.name,
            obs={"planes": ObsSpec((ROWS, COLUMNS, 2 if config.background else 1), "planes")},
            action=ActionSpec("discrete", 3),
            # Exact: a policy that ignores the ball meets it with probability 1/5.
            random_score=-0.6,
            reference_score=1.0,
        )
        self._config = config
        self._random = np.random.default_rng(seed)
        self._ball_row = self._ball_column = 0
        self._paddle = COLUMNS // 2
        self._background = self._lit((ROWS, COLUMNS))

    def reset(self) -> Step:
        """A new ball at the top, the paddle in the middle."""
        self._ball_row, self._paddle = 0, COLUMNS // 2
        self._ball_column = int(self._random.integers(COLUMNS))
        return Step.row(self._obs(), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """Move the paddle, let the ball fall one row."""
        self._paddle = min(max(self._paddle + self._move(int(action)), 0), COLUMNS - 1)
        self._ball_row += 1
        self._background = np.concatenate([self._lit((1, COLUMNS)), self._background[:-1]])
        landed = self._ball_row == ROWS - 1
        caught = self._ball_column == self._paddle
        reward = (1.0 if caught else -1.0) if landed else 0.0
        return Step.row(self._obs(), reward, is_last=landed, is_terminal=landed)

    def _move(self, action: int) -> int:
        return _MOVES[self._config.controls][action]

    def _lit(self, shape: tuple[int, int]) -> np.ndarray:
        """Random cells of the background; draws nothing where there is none."""
        share = self._config.background
        return self._random.random(shape) < share if share else np.zeros(shape, np.bool_)

    def _obs(self) -> dict[str, np.ndarray]:
        planes = np.zeros((ROWS, COLUMNS, 1), np.bool_)
        if self._ball_row < self._rows_seen:
            planes[self._ball_row, self._ball_column] = True
        planes[ROWS - 1, self._paddle] = True
        if self._config.view == "flipped":
            planes = planes[::-1]
        planes ^= self._config.inverted
        if self._config.background:
            planes = np.concatenate([planes, self._background[..., None]], -1)
        return {"planes": planes}

    def get_state(self) -> dict[str, Any]:
        """Ball, paddle, background and random stream."""
        return {
            "background": self._background.tolist(),
            "ball": [self._ball_row, self._ball_column],
            "paddle": self._paddle,
            "random": self._random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        self._ball_row, self._ball_column = state["ball"]
        self._paddle = state["paddle"]
        self._background = np.array(state["background"], np.bool_)
        self._random.bit_generator.state = state["random"]

    def close(self) -> None:
        """Nothing to free."""
