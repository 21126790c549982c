"""A task stream as one environment: its tasks' episodes one after the other, in common spaces."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from worldmodels.envs.continual_config import ContinualConfig
from worldmodels.envs.continual_tasks import read_task
from worldmodels.envs.errors import UserError
from worldmodels.envs.registry import make
from worldmodels.envs.spec import ActionSpec, Env, EnvSpec, ObsSpec, Step


class Continual:
    """Plays each task for its steps, then cuts the episode and goes on with the next.

    A switch may come in mid-episode: that row is `is_last` and not `is_terminal`, and the next
    reset starts the new task. After the last one it stays there. A task's environment is made when
    its time comes and closed when it is over; another visit makes a new one, with a seed that
    depends on this environment's seed and the visit alone.
    """

    Config = ContinualConfig

    def __init__(self, config: ContinualConfig, seed: int):
        self._config, self._seed = config, seed
        self._visits = config.visits
        self._specs = tuple(map(_task_spec, config.tasks))
        self.spec = common_spec(config, self._specs)
        self._visit = 0
        self._steps = 0  # real ones of this visit
        self._env: Env | None = None

    @property
    def _task(self) -> int:
        return self._visits[self._visit]

    def _is_over(self) -> bool:
        """This visit has had its steps, and another one follows."""
        spent = self._steps >= self._config.steps_per_task
        return spent and self._visit + 1 < len(self._visits)

    def reset(self) -> Step:
        """An episode of the current task, or the first one of the next."""
        if self._is_over():
            self.close()
            self._visit, self._steps = self._visit + 1, 0
        if self._env is None:
            self._env = self._make(0)
        return self._dress(self._env.reset())

    def step(self, action: np.ndarray) -> Step:
        """A step of the current task; its last one cuts the episode."""
        assert self._env is not None, "an episode starts with a reset"
        row = self._dress(self._env.step(self._own_action(action)))
        self._steps += 1
        if self._is_over():
            row.is_last[:] = True
        return row

    def _make(self, salt: int) -> Env:
        """The environment of this visit."""
        seed = np.random.SeedSequence([self._seed, self._visit, salt]).generate_state(1)[0]
        return make(read_task(self._config.tasks[self._task]).config, int(seed))

    def _own_action(self, action: np.ndarray) -> np.ndarray:
        """An action that the task lacks does what its action 0 does."""
        own = self._specs[self._task].action
        lacks = own.kind == "discrete" and int(action) >= own.size
        return np.zeros_like(action) if lacks else action

    def _dress(self, row: Step) -> Step:
        """In the common spaces, with the task's index."""
        obs = {}
        for key, value in row.obs.items():
            missing = self.spec.obs[key].shape[-1] - value.shape[-1]
            widths = [(0, 0)] * (value.ndim - 1) + [(0, missing)]
            obs[key] = np.pad(value, widths) if missing else value
        return replace(row, obs=obs, task=np.full(1, self._task, np.int32))

    def get_state(self) -> dict[str, Any]:
        """Place in the schedule and the state of the task, which is None where it has none."""
        return {
            "seed": self._seed,
            "visit": self._visit,
            "steps": self._steps,
            "made": self._env is not None,
            "env": None if self._env is None else self._env.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> bool:
        """Continue from `get_state`; True where the task's environment could not be saved.

        Then its next episode comes from a new one, and the schedule goes on.
        """
        self.close()
        self._seed, self._visit, self._steps = state["seed"], state["visit"], state["steps"]
        if not state["made"]:
            return False
        lost = state["env"] is None
        # The same seed again would repeat the episodes of before.
        self._env = self._make(1 + self._steps if lost else 0)
        return bool(lost or self._env.set_state(state["env"]))

    def close(self) -> None:
        """Close the current task's environment."""
        if self._env is not None:
            self._env.close()
            self._env = None


@cache
def _task_spec(text: str) -> EnvSpec:
    """What a task's environment says of itself; it is made once and closed."""
    task = read_task(text)
    try:
        env = make(task.config, 0)
    except UserError as error:
        raise UserError(f"task '{task.label}': {error}") from error
    env.close()
    return env.spec


def common_spec(config: ContinualConfig, specs: tuple[EnvSpec, ...]) -> EnvSpec:
    """The spaces that all tasks fit into; UserError that names a task which does not.

    Discrete actions: the largest number. Planes: the most channels, the others padded with empty
    ones. Scores are those of the one task, where the config stays on one.
    """
    labels = config.task_names
    obs, action = specs[0].obs, specs[0].action
    for label, spec in zip(labels, specs, strict=True):
        pair = f"{config.name}: task '{label}' ({spec.name}) and task '{labels[0]}'"
        if spec.obs.keys() != obs.keys():
            raise UserError(
                f"{pair} have other observations: {', '.join(spec.obs)} and {', '.join(obs)}"
            )
        obs = {key: _common(pair, key, obs[key], spec.obs[key]) for key in obs}
        action = _common_action(pair, action, spec.action)
    alone = specs[labels.index(config.task)] if config.task else None
    return EnvSpec(
        name=config.name,
        obs=obs,
        action=action,
        frame_skip=specs[config.visits[0]].frame_skip,
        random_score=alone and alone.random_score,
        reference_score=alone and alone.reference_score,
        memoryless_score=alone and alone.memoryless_score,
    )


def _common(pair: str, key: str, ours: ObsSpec, theirs: ObsSpec) -> ObsSpec:
    pads = ours.kind == theirs.kind == "planes" and ours.shape[:-1] == theirs.shape[:-1]
    if ours != theirs and not pads:
        raise UserError(
            f"{pair} cannot share the observation '{key}': {theirs.kind} {theirs.shape} and "
            f"{ours.kind} {ours.shape}; give the tasks of a stream the same spaces"
        )
    return max(ours, theirs, key=lambda spec: spec.shape[-1])


def _common_action(pair: str, ours: ActionSpec, theirs: ActionSpec) -> ActionSpec:
    if ours.kind != theirs.kind or (ours.kind == "continuous" and ours.size != theirs.size):
        raise UserError(
            f"{pair} cannot share their actions: {theirs.size} {theirs.kind} and {ours.size} "
            f"{ours.kind}; discrete ones may differ in number, continuous ones must agree"
        )
    return max(ours, theirs, key=lambda spec: spec.size)
