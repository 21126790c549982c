"""Edge-of-reach environments: the farthest states that short rollouts come to are the worst.

The lattice follows reference section 2.8 (after Sims et al. 2024, arXiv 2402.12527), with walls at
twice the edge so that a picture can show every cell. The plane follows the paper's 2-D environment
as far as we know it (unit moves, starts within 2, rollouts of 10 steps, episodes of 30); its
reward, the lattice's ramp, is our choice.
"""

from typing import Any

import numpy as np

from worldmodels.envs.known import Arrays, KnownDynamics
from worldmodels.envs.reach_config import ReachConfig, ReachPlaneConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step

SCALE = 10.0
"""Cells, or units of the plane, per unit of the observed vector."""


class ReachDynamics(KnownDynamics):
    """s' = s + a, within walls at twice the edge; arriving pays f(s), for the place left behind.

    With K the edge, m = max(|x|, |y|) and inside where m <= K - 1, f is: for `ramp`
    0.5 m / (K - 1) inside and -1 beyond; for `rampx` 0.6 within sqrt 2 of (-3, 0), else
    0.5 max(x, 0) / (K - 1) inside and -1 beyond; for `bump` 1 within sqrt 2 of (4, 0), else 0.
    No state is terminal.
    """

    def __init__(self, config: ReachConfig | ReachPlaneConfig):
        self.goal, self.edge, self.wall = config.goal, config.edge, 2 * config.edge
        self.discrete = isinstance(config, ReachConfig)

    def state(self, vector: Arrays) -> Arrays:
        """(x / 10, y / 10) -> (x, y), whole numbers on the lattice."""
        x, y = vector[0] * SCALE, vector[1] * SCALE
        return (x.round(), y.round()) if self.discrete else (x, y)

    def observe(self, state: Arrays) -> Arrays:
        """(x, y) -> (x / 10, y / 10)."""
        return state[0] / SCALE, state[1] / SCALE

    def step(self, state: Arrays, action: Any) -> tuple[Arrays, Any, Any]:
        """Actions 0 to 8 are (dx, dy) = (-1, -1), (-1, 0), ... (1, 1); on the plane a pair."""
        if self.discrete:
            dx, dy = action // 3 - 1, action % 3 - 1
        else:
            dx, dy = (part.clip(-1, 1) for part in action)
        x, y = state[0] + dx, state[1] + dy
        arrived = x.clip(-self.wall, self.wall), y.clip(-self.wall, self.wall)
        return arrived, self.pay(state), 1.0

    def pay(self, state: Arrays) -> Any:
        """f, what is paid for having been at (x, y)."""
        x, y = state
        if self.goal == "bump":
            return 1.0 * ((x - 4) ** 2 + y**2 <= 2)
        m = (abs(x) + abs(y) + abs(abs(x) - abs(y))) / 2
        inside, slope = m <= self.edge - 1, 0.5 / (self.edge - 1)
        if self.goal == "ramp":
            return slope * m * inside - 1.0 * ~inside
        safe = (x + 3) ** 2 + y**2 <= 2
        return 0.6 * safe + slope * x.clip(0, None) * (inside & ~safe) - 1.0 * ~inside


class _Walk:
    """A place that actions move; an episode ends, without a terminal, at its time limit."""

    def __init__(self, spec: EnvSpec, dynamics: ReachDynamics, max_steps: int, seed: int):
        self.spec, self.dynamics, self._max_steps = spec, dynamics, max_steps
        self._random = np.random.default_rng(seed)
        self._place, self._steps = np.zeros(2), 0

    def _start(self) -> np.ndarray:
        raise NotImplementedError("abstract")

    def _obs(self) -> dict[str, np.ndarray]:
        return {"vector": np.array(self.dynamics.observe(tuple(self._place)), np.float32)}

    def reset(self) -> Step:
        """A place of the start square."""
        self._place, self._steps = self._start(), 0
        return Step.row(self._obs(), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """Move, and be paid for the place that was left."""
        move = action if self.spec.action.kind == "discrete" else tuple(action)
        arrived, reward, _ = self.dynamics.step(tuple(self._place), move)
        self._place, self._steps = np.array(arrived), self._steps + 1
        return Step.row(self._obs(), reward, is_last=self._steps == self._max_steps)

    def get_state(self) -> dict[str, Any]:
        """Place, clock and random stream."""
        random = self._random.bit_generator.state
        return {"place": self._place.copy(), "steps": self._steps, "random": random}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        self._place, self._steps = state["place"].copy(), state["steps"]
        self._random.bit_generator.state = state["random"]

    def close(self) -> None:
        """Nothing to free."""


class Reach(_Walk):
    """The lattice: 9 actions, to one of the 8 neighbours or none. `ReachDynamics` has the rewards.

    Observation: `vector` float32 [2]; or, for `pixels`, `planes` bool [4 K + 1, 4 K + 1, 1], whose
    lit row (x) and column (y) cross at the agent.
    """

    Config = ReachConfig

    def __init__(self, config: ReachConfig, seed: int):
        dynamics = ReachDynamics(config)
        self._half_width, self._pixels = config.half_width, config.observation == "pixels"
        side = 4 * config.edge + 1
        obs = ObsSpec((side, side, 1), "planes") if self._pixels else ObsSpec((2,), "vector")
        low, high = scores(dynamics, config)
        spec = EnvSpec(
            name=config.name,
            obs={obs.kind: obs},
            action=ActionSpec("discrete", 9),
            random_score=low,
            reference_score=high,
        )
        super().__init__(spec, dynamics, config.max_steps, seed)

    def _start(self) -> np.ndarray:
        cells = self._random.integers(-self._half_width, self._half_width + 1, 2)
        return cells.astype(np.float64)

    def _obs(self) -> dict[str, np.ndarray]:
        if not self._pixels:
            return super()._obs()
        planes = np.zeros(self.spec.obs["planes"].shape, np.bool_)
        row, column = (self._place + self.dynamics.wall).astype(int)
        planes[row] = planes[:, column] = True
        return {"planes": planes}


class ReachPlane(_Walk):
    """The plane: actions (dx, dy) in [-1, 1]. Observation: `vector` float32 [2]."""

    Config = ReachPlaneConfig

    def __init__(self, config: ReachPlaneConfig, seed: int):
        spec = EnvSpec(
            name=config.name,
            obs={"vector": ObsSpec((2,), "vector")},
            action=ActionSpec("continuous", 2),
        )
        super().__init__(spec, ReachDynamics(config), config.max_steps, seed)
        self._half_width = config.half_width

    def _start(self) -> np.ndarray:
        return self._random.uniform(-self._half_width, self._half_width, 2)


def scores(dynamics: ReachDynamics, config: ReachConfig) -> tuple[float, float]:
    """Mean return of random play and of the best, exact: expectation and maximum over all cells."""
    cells = np.arange(-dynamics.wall, dynamics.wall + 1.0)
    place = tuple(axis.ravel() for axis in np.meshgrid(cells, cells, indexing="ij"))
    pay = dynamics.pay(place)
    moves = [dynamics.step(place, np.int64(action))[0] for action in range(9)]
    after = np.stack([(x + dynamics.wall) * len(cells) + y + dynamics.wall for x, y in moves])
    after = after.astype(int)  # [9, cells]
    random, best = np.zeros_like(pay), np.zeros_like(pay)
    for _ in range(config.max_steps):
        random, best = pay + random[after].mean(0), pay + best[after].max(0)
    starts = np.maximum(abs(place[0]), abs(place[1])) <= config.half_width
    return float(random[starts].mean()), float(best[starts].mean())
