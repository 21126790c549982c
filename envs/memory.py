"""Tasks that tell backbones apart: what decides the return is shown once and asked for later.

All three show one boolean plane of 10 x 5 cells, so that one small encoder serves them. Each `spec`
holds the exact mean return of a random policy, of the best policy without memory (it sees only the
current observation, and may be random), and of perfect memory.
"""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from worldmodels.envs.catch import COLUMNS, ROWS, Catch
from worldmodels.envs.configs import MemoryCatchConfig, MemoryRepeatConfig, MemoryTMazeConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step

_PLANES = {"planes": ObsSpec((ROWS, COLUMNS, 1), "planes")}


class MemoryCatch(Catch):
    """Catch whose ball is seen in the first two rows only; 9 steps, 3 actions, return +1 or -1.

    The paddle cannot move while the ball is seen: it is in view, and a policy without memory would
    park it under the ball. Returns: random -0.6, no memory -0.6 (one of five columns), perfect 1.
    """

    Config = MemoryCatchConfig

    _rows_seen = 2

    def __init__(self, config: MemoryCatchConfig, seed: int):
        super().__init__(config, seed)
        self.spec = replace(self.spec, memoryless_score=-0.6)

    def _move(self, action: int) -> int:
        """As in Catch, but the paddle waits until the ball is out of sight."""
        return 0 if self._ball_row < self._rows_seen else super()._move(action)


class MemoryTMaze:
    """A cue, a corridor of L cells, and a junction where the agent turns to the cued side.

    Observation: `planes` bool [10, 5, 1], the way ahead with the agent at the bottom; the first one
    also shows the cue, in the left or right bottom corner. The agent is carried one cell a step;
    its action counts at the junction only, L steps after the cue. Actions: left, right. An episode
    has L + 1 steps and returns +1 for the cued side, -1 for the other.
    Returns: random 0, no memory 0, perfect 1.
    After Bakker 2002 (Reinforcement learning with long short-term memory, NIPS 14), made passive.
    """

    Config = MemoryTMazeConfig

    def __init__(self, config: MemoryTMazeConfig, seed: int):
        self.spec = EnvSpec(
            name=config.name,
            obs=_PLANES,
            action=ActionSpec("discrete", 2),
            random_score=0.0,
            memoryless_score=0.0,
            reference_score=1.0,
        )
        self._random = np.random.default_rng(seed)
        self._maze = _Maze(config.length)
        self._cell = self._cue = 0

    def reset(self) -> Step:
        """A new cue; the agent at the corridor's start."""
        self._cell, self._cue = 0, int(self._random.integers(2))
        view = self._maze.view(0, COLUMNS // 2)
        view[-1, -1 if self._cue else 0] = True
        return Step.row({"planes": view}, is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """One cell on, or, at the junction, into the arm of `action`."""
        if self._cell < self._maze.length:
            self._cell += 1
            return Step.row({"planes": self._maze.view(self._cell, COLUMNS // 2)})
        turn = int(action)
        view = self._maze.view(self._cell, COLUMNS // 2 + (1 if turn else -1))
        reward = 1.0 if turn == self._cue else -1.0
        return Step.row({"planes": view}, reward, is_last=True, is_terminal=True)

    def get_state(self) -> dict[str, Any]:
        """Place, cue and random stream."""
        return {
            "cell": self._cell,
            "cue": self._cue,
            "random": self._random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        self._cell, self._cue = state["cell"], state["cue"]
        self._random.bit_generator.state = state["random"]

    def close(self) -> None:
        """Nothing to free."""


class _Maze:
    """Walls of the corridor (cells 0 to length - 1) and of the junction (cell `length`)."""

    def __init__(self, length: int):
        self.length = length

    def view(self, cell: int, column: int) -> np.ndarray:
        """bool [10, 5, 1]: cells `cell` (bottom) to `cell + 9` (top), the agent in `column`."""
        planes = np.zeros((ROWS, COLUMNS, 1), np.bool_)
        for ahead in range(ROWS):
            planes[ROWS - 1 - ahead, self._walls(cell + ahead)] = True
        planes[ROWS - 1, column] = True
        return planes

    def _walls(self, cell: int) -> list[int]:
        """Columns with a wall."""
        if cell == self.length + 1:  # the junction's far side
            return [0, 1, 2, 3, 4]
        if cell >= self.length:
            return []
        if cell == self.length - 1:  # the near side of the arms
            return [0, 1, 3, 4]
        return [] if cell % 3 == 2 else [1, 3]  # gaps show that, and which way, the agent moves


class MemoryRepeat:
    """Each step shows a random symbol; the action names the one shown K steps before it.

    Observation: `planes` bool [10, 5, 1], symbol s fills rows 2s and 2s + 1. Actions: one per
    symbol (4). The first K actions count for nothing; then a right answer pays 1/N and a wrong one
    -1/N, N = max(32, 2K) times. After these K + N steps the episode is truncated: the task itself
    has no end.
    Returns for S symbols: random 2/S - 1, no memory 2/S - 1 (symbols are independent), perfect 1.
    After RepeatPrevious of POPGym (Morad et al. 2023, arXiv 2303.01859).
    """

    Config = MemoryRepeatConfig

    def __init__(self, config: MemoryRepeatConfig, seed: int):
        chance = 2 / config.symbols - 1
        self.spec = EnvSpec(
            name=config.name,
            obs=_PLANES,
            action=ActionSpec("discrete", config.symbols),
            random_score=chance,
            memoryless_score=chance,
            reference_score=1.0,
        )
        self._random = np.random.default_rng(seed)
        self._delay, self._answers = config.delay, max(32, 2 * config.delay)
        # The current one last; once it is full, the one of K steps ago first.
        self._symbols: deque[int] = deque(maxlen=config.delay + 1)
        self._steps = 0

    def reset(self) -> Step:
        """The first symbol."""
        self._symbols.clear()
        self._steps = 0
        return Step.row(self._draw(), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """Pay for the answer, show the next symbol."""
        reward = 0.0
        if self._steps >= self._delay:
            right = int(action) == self._symbols[0]
            reward = (1.0 if right else -1.0) / self._answers
        self._steps += 1
        is_last = self._steps == self._delay + self._answers
        return Step.row(self._draw(), reward, is_last=is_last)

    def _draw(self) -> dict[str, np.ndarray]:
        symbol = int(self._random.integers(self.spec.action.size))
        self._symbols.append(symbol)
        planes = np.zeros((ROWS, COLUMNS, 1), np.bool_)
        planes[2 * symbol : 2 * symbol + 2] = True
        return {"planes": planes}

    def get_state(self) -> dict[str, Any]:
        """Symbols still to be asked for, clock and random stream."""
        return {
            "symbols": list(self._symbols),
            "steps": self._steps,
            "random": self._random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        self._symbols.clear()
        self._symbols.extend(state["symbols"])
        self._steps = state["steps"]
        self._random.bit_generator.state = state["random"]

    def close(self) -> None:
        """Nothing to free."""
