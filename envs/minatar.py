"""MinAtar: five Atari-like games on 10 x 10 boolean planes (Young and Tian 2019)."""

import pickle
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.envs.configs import MinAtarConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step


class MinAtar:
    """One MinAtar game. Observation: `planes` bool [10, 10, C], C = 4 to 10 by game.

    Sticky actions and their random stream are those of `minatar.Environment`.
    """

    Config = MinAtarConfig

    def __init__(self, config: MinAtarConfig, seed: int):
        game = config.name.partition(":")[2]
        self._config = config
        self._game = _game_class(game)(ramping=config.difficulty_ramping)
        self._game.random = np.random.RandomState(seed)
        # Freeway has no end but a hidden clock: its end says nothing about value.
        self._ends_by_clock = game == "freeway"
        self._actions = (
            list(range(6)) if config.full_action_space else self._game.minimal_action_set()
        )
        self._previous = 0
        self._steps = 0
        self.spec = EnvSpec(
            name=config.name,
            obs={"planes": ObsSpec(tuple(self._game.state_shape()), "planes")},
            action=ActionSpec("discrete", len(self._actions)),
        )

    def reset(self) -> Step:
        """A new game."""
        self._game.reset()
        self._steps = 0
        return Step.row(self._obs(), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """One step of the game; a step that reaches `max_steps` truncates."""
        if self._game.random.rand() >= self._config.sticky:
            self._previous = self._actions[int(action)]
        reward, ended = self._game.act(self._previous)
        self._steps += 1
        return Step.row(
            self._obs(),
            reward,
            is_last=ended or self._steps >= self._config.max_steps,
            is_terminal=ended and not self._ends_by_clock,
        )

    def _obs(self) -> dict[str, np.ndarray]:
        return {"planes": self._game.state().astype(np.bool_)}

    def get_state(self) -> dict[str, Any]:
        """The game's attributes, its random stream among them, as one pickle."""
        return {
            "game": pickle.dumps(vars(self._game)),
            "previous": self._previous,
            "steps": self._steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        vars(self._game).update(pickle.loads(state["game"]))
        self._previous = state["previous"]
        self._steps = state["steps"]

    def close(self) -> None:
        """Nothing to free."""


def _game_class(game: str) -> type:
    """The class `Env` of one game's module.

    Read from its file: importing the package `minatar` would import pyplot and seaborn.
    """
    package = find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'minatar'", name="minatar")
    path = Path(package.submodule_search_locations[0], "environments", f"{game}.py")
    spec = spec_from_file_location(f"minatar.environments.{game}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Env
