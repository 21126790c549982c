"""A Procgen emulator that is saved as its seed and its actions.

The library cannot save generated assets: it aborts the process when asked to. But a level is a
function of its seed, and an emulator takes milliseconds to make, no longer than to restart. So here
every episode has an emulator of its own, and a saved one is played again up to where it was.
"""

import json
from collections.abc import Mapping

import numpy as np

from worldmodels.envs.procgen_library import RESET, Emulator


class ReplayedEmulator:
    """One game, with the methods of `Emulator`; levels are drawn from the same set."""

    def __init__(self, options: Mapping[str, bool | int | str]):
        self._options = options
        self._random = np.random.default_rng(int(options["rand_seed"]))
        self._begin()

    def _begin(self) -> None:
        self._make(int(self._random.integers(2**31)))

    def _make(self, seed: int) -> None:
        self._seed, self._actions = seed, bytearray()
        self._emulator = Emulator({**self._options, "rand_seed": seed})

    @property
    def frame(self) -> np.ndarray:
        """uint8 [64, 64, 3]; the next call draws over it or leaves it behind."""
        return self._emulator.frame

    @property
    def level_seed(self) -> int:
        """Seed of the level that `frame` shows."""
        return self._emulator.level_seed

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, and whether its level was completed."""
        reward, ended, complete = self._emulator.act(action)
        if ended or action == RESET:
            self._emulator.close()
            self._begin()
        else:
            self._actions.append(action)
        return reward, ended, complete

    def get_state(self) -> bytes:
        """The emulator's seed, the actions of its episode, and what draws the next seeds."""
        actions, random = self._actions.hex(), self._random.bit_generator.state
        return json.dumps({"seed": self._seed, "actions": actions, "random": random}).encode()

    def accepts(self, state: bytes) -> bool:
        """Whether `state` is one of this class."""
        return state.startswith(b'{"seed":')

    def set_state(self, state: bytes) -> None:
        """Play the saved episode up to where it was."""
        saved = json.loads(state)
        self._emulator.close()
        self._make(saved["seed"])
        self._random.bit_generator.state = saved["random"]
        for action in bytes.fromhex(saved["actions"]):
            self.act(action)

    def close(self) -> None:
        """Free the emulator; a second call does nothing."""
        self._emulator.close()
