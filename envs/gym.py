"""Any Gymnasium environment whose spaces a world model can read."""

import pickle
from functools import cache
from typing import Any

import gymnasium
import numpy as np

from worldmodels.envs.configs import GymConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.names import did_you_mean, known_names
from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.spaces import read_action_space, read_observation_space
from worldmodels.envs.spec import EnvSpec, Step


class Gym:
    """One Gymnasium environment; see `spaces.py` for what becomes of its observations."""

    Config = GymConfig

    def __init__(self, config: GymConfig, seed: int):
        self._config = config
        self._env = _make(config)
        obs, self._read = read_observation_space(
            self._env.observation_space, config.name, config.image_size
        )
        action, self._scale = read_action_space(self._env.action_space, config.name)
        self.spec = EnvSpec(name=config.name, obs=obs, action=action)
        # Given to the first reset only: later episodes continue the environment's own stream.
        self._seed: int | None = seed
        self._steps = 0

    def reset(self) -> Step:
        """A new episode."""
        self._steps = 0
        try:
            obs, _ = self._env.reset(seed=self._seed)
        except Exception as error:
            raise self._failed("reset", error) from error
        self._seed = None
        return Step.row(self._read(obs), is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """One step; a truncated episode is last without being terminal."""
        self._steps += 1
        try:
            obs, reward, terminated, truncated, _ = self._env.step(self._scale(action))
        except Exception as error:
            raise self._failed(f"step {self._steps}", error) from error
        return Step.row(
            self._read(obs),
            float(reward),
            is_last=bool(terminated or truncated),
            is_terminal=bool(terminated),
        )

    def _failed(self, where: str, error: Exception) -> UserError:
        return UserError(
            f"{self.spec.name} raised {type(error).__name__} at {where} of its episode: {error}; "
            "this is an error of the environment itself (--debug shows where)"
        )

    def get_state(self) -> dict[str, Any] | None:
        """The pickled environment, or None where a pickled copy does not continue exactly."""
        if not _pickles_exactly(self._config):
            return None
        try:
            pickled = pickle.dumps(self._env)
        except Exception:  # it did pickle when it was tried; a run's checkpoint must not fail here
            return None
        return {"env": pickled, "seed": self._seed, "steps": self._steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state`."""
        self._env.close()
        self._env = pickle.loads(state["env"])
        self._seed = state["seed"]
        self._steps = state["steps"]

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _make(config: GymConfig) -> gymnasium.Env:
    env_id = config.name.partition(":")[2]
    try:
        # The checker would only repeat, as warnings, what the spaces say here as errors.
        return gymnasium.make(
            env_id, max_episode_steps=config.max_steps or None, disable_env_checker=True
        )
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{config.name} needs a library that is not installed: {error}") from error
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).rstrip(".")
        near = "" if "Did you mean" in reason else did_you_mean(env_id, known_names())
        raise UserError(f"unknown Gymnasium environment '{env_id}': {reason}{near}") from error
    except Exception as error:
        raise UserError(
            f"{config.name} raised {type(error).__name__} while it was made: {error}; "
            "this is an error of the environment itself (--debug shows where)"
        ) from error


@cache
def _pickles_exactly(config: GymConfig) -> bool:
    """Whether a pickled copy and its original give the same rows; tried on spare environments."""
    original, copy = Gym(config, seed=0), Gym(config, seed=1)
    try:
        played = RandomPlay(original, seed=2)
        played.rows(100)
        copy.set_state({"env": pickle.dumps(original._env), "seed": None, "steps": 0})
        continued = RandomPlay(copy, seed=3, running=played.running)
        played = RandomPlay(original, seed=3, running=played.running)
        return first_difference(played.rows(200), continued.rows(200)) is None
    except Exception:  # whatever pickling or the copy's steps raise, the answer is no
        return False
    finally:
        original.close()
        copy.close()
