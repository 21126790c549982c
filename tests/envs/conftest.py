"""A scripted environment, given to tests as a class."""

import numpy as np
import pytest

from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step


class Scripted:
    """Plays a script of episodes, each (length, how it ends); its observation counts all rows.

    `how`: "terminal", "truncated" or "raise". The reward of step k is k.
    """

    def __init__(self, script: list[tuple[int, str]], savable: bool = True):
        self.script = script
        self.savable = savable
        self.spec = EnvSpec(
            "scripted", {"vector": ObsSpec((1,), "vector")}, ActionSpec("discrete", 4)
        )
        self.episode, self.k, self.row = -1, 0, 0
        self.actions: list[int] = []
        self.closed = 0

    def _obs(self):
        self.row += 1
        return {"vector": np.array([self.row], np.float32)}

    def reset(self) -> Step:
        self.episode, self.k = self.episode + 1, 0
        return Step.row(self._obs(), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        self.k += 1
        self.actions.append(int(action))
        length, how = self.script[self.episode % len(self.script)]
        ends = self.k == length
        if ends and how == "raise":
            raise RuntimeError("the motor burnt out")
        return Step.row(
            self._obs(),
            self.k,
            is_last=ends,
            is_terminal=ends and how == "terminal",
        )

    def get_state(self):
        return {"place": [self.episode, self.k, self.row]} if self.savable else None

    def set_state(self, state) -> None:
        self.episode, self.k, self.row = state["place"]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="session")
def scripted():
    return Scripted
