"""E environments as one stream of rows: the only place that decides when an episode restarts."""

from typing import Any

import numpy as np

from worldmodels.envs.errors import UserError
from worldmodels.envs.registry import lane_config, make
from worldmodels.envs.spec import Env, EnvSpec, Step


class VecEnv:
    """Steps E environments in this process, in order.

    There is no reset to call: an environment that has not started, or whose last row was `is_last`,
    is reset by the next `step`, which ignores its action.
    """

    def __init__(self, envs: list[Env]):
        if not envs:
            raise ValueError("a VecEnv needs at least one environment")
        self.envs = envs
        self.spec: EnvSpec = envs[0].spec
        for index, env in enumerate(envs):
            if (env.spec.obs, env.spec.action) != (self.spec.obs, self.spec.action):
                raise UserError(
                    f"environment {index} ({env.spec.name}) has other spaces than environment 0 "
                    f"({self.spec.name}); give all environments of one run the same spaces"
                )
        self.num_envs = len(envs)
        self._running = [False] * self.num_envs
        self._steps = [0] * self.num_envs  # of the current episode

    def step(self, actions: np.ndarray) -> Step:
        """The next row of every environment; actions int64 [E] or float32 [E, A]."""
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        return Step.stack([self._row(index, action) for index, action in enumerate(actions)])

    def _row(self, index: int, action: np.ndarray) -> Step:
        env = self.envs[index]
        self._steps[index] = self._steps[index] + 1 if self._running[index] else 0
        try:
            row = env.step(action) if self._running[index] else env.reset()
        except Exception as error:
            raise self._failed(index, error) from error
        self._running[index] = not row.is_last[0]
        return row

    def _failed(self, index: int, error: Exception) -> UserError:
        place = f"environment {index} of {self.num_envs}"
        if isinstance(error, UserError):  # a whole sentence already
            return UserError(f"{place}: {error}")
        step = self._steps[index]
        when = f"step {step}" if step else "the reset"
        return UserError(
            f"{place} ({self.envs[index].spec.name}) raised {type(error).__name__} at {when} of "
            f"its episode: {error}; this is an error of the environment itself "
            "(--debug shows where)"
        )

    def get_state(self) -> list[dict[str, Any] | None]:
        """One state per environment; None for one that cannot be saved."""
        states: list[dict[str, Any] | None] = []
        for env, running, steps in zip(self.envs, self._running, self._steps, strict=True):
            state = env.get_state()
            saved = {"env": state, "running": running, "steps": steps}
            states.append(None if state is None else saved)
        return states

    def set_state(self, states: list[dict[str, Any] | None]) -> list[int]:
        """Continue from `get_state`; returns the environments that cannot: those that had no state,
        and those whose task had none. They start a new episode at the next step.
        """
        if len(states) != self.num_envs:
            raise UserError(
                f"the saved run has {len(states)} environments and this one has {self.num_envs}; "
                "resume with the number that it was started with"
            )
        lost = []
        for index, state in enumerate(states):
            if state is None or self.envs[index].set_state(state["env"]):
                lost.append(index)
                self._running[index], self._steps[index] = False, 0
            else:
                self._running[index], self._steps[index] = state["running"], state["steps"]
        return lost

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def make_vec(config: Any, num_envs: int, seed: int) -> VecEnv:
    """`num_envs` environments of one config, with independent seeds drawn from `seed`.

    Environment i has the same seed whatever `num_envs` is.
    """
    children = np.random.SeedSequence(seed).spawn(num_envs)
    try:
        seeds = [int(child.generate_state(1)[0]) for child in children]
        lanes = [lane_config(config, index, num_envs) for index in range(num_envs)]
        return VecEnv([make(lane, seed) for lane, seed in zip(lanes, seeds, strict=True)])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"environment {config.name} raised {type(error).__name__} when it was made: {error}; "
            "this is an error of the environment itself (--debug shows where)"
        ) from error
