"""Environments <-> agent: writes what arrives into the replay. Letters: E environments."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodels.agent import Agent, Memory
from worldmodels.backbones.base import State
from worldmodels.config import Config
from worldmodels.envs.registry import make
from worldmodels.envs.spec import ActionSpec
from worldmodels.envs.vector import VecEnv
from worldmodels.replay import Replay
from worldmodels.runtime.seeding import stream_seed

ENVS = "envs.pkl"
"""States of environments hold numpy arrays, which `torch.load` refuses: a file of their own."""


class Collector:
    """Steps all environments once a call; keeps the acting state and the running returns."""

    def __init__(
        self,
        config: Config,
        envs: VecEnv,
        agent: Agent,
        replay: Replay,
        generator: torch.Generator,
    ):
        self.envs, self.agent, self.replay, self.generator = envs, agent, replay, generator
        self._config = config
        self._action = no_action(envs.spec.action, envs.num_envs)
        self._memory: Memory = agent.initial(envs.num_envs)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, np.int64)

    def start(self) -> list[str]:
        """Nothing comes before the first step."""
        return []

    def collect(self) -> tuple[int, list[dict[str, Any]]]:
        """One row of every environment; returns the actions that were executed and, for every
        episode that ended, its return, length, environment and task's index.
        """
        step = self.envs.step(self._action)
        led_here = self._action.copy()
        led_here[step.is_first] = no_action(self.envs.spec.action, 1)[0]
        rows = self.replay.add(step, led_here)
        self._action, self._memory = self.agent.act(
            step.obs, self._memory, step.is_first, generator=self.generator
        )
        self.replay.update(rows, carry=self._memory.carry)
        self._returns = np.where(step.is_first, 0.0, self._returns) + step.reward
        self._lengths = np.where(step.is_first, 0, self._lengths) + step.is_real_step
        ended = [
            {
                "return": float(self._returns[i]),
                "length": int(self._lengths[i]),
                "env": int(i),
                "task": int(step.task[i]),
            }
            for i in np.flatnonzero(step.is_last)
        ]
        return int(step.is_real_step.sum()), ended

    def save(self, folder: Path) -> dict[str, Any]:
        """Everything that decides the next row; the environments' states go into the folder."""
        with (folder / ENVS).open("wb") as file:
            pickle.dump(self.envs.get_state(), file)
        return {
            "action": torch.from_numpy(self._action),
            "carry": self._memory.carry.save(),
            "prev_action": self._memory.action,
            "returns": torch.from_numpy(self._returns),
            "lengths": torch.from_numpy(self._lengths),
            "device": self.agent.device.type,
            "generator": self.generator.get_state(),
        }

    def load(self, folder: Path, state: dict[str, Any], step: int) -> list[str]:
        """Inverse of `save`, at agent step `step`; returns what could not be continued exactly.

        An empty state is that of a run that has collected nothing: all begins here.
        """
        if not state:
            return ["the environments are stepped from here on; the replay goes on behind its rows"]
        with (folder / ENVS).open("rb") as file:
            states = pickle.load(file)
        return [*self._load_acting(state), *self._load_envs(states, step)]

    def _load_acting(self, state: dict[str, Any]) -> list[str]:
        device = self.agent.device
        spec = self.agent.world_model.carry_spec()
        self._action = state["action"].numpy()
        carry = State.load(state["carry"], spec).to(device)
        self._memory = Memory(carry, state["prev_action"].to(device))
        self._returns, self._lengths = state["returns"].numpy(), state["lengths"].numpy()
        if state["device"] != device.type:  # a generator's state belongs to its kind of device
            return [f"the run moves from {state['device']} to {device.type}: its acting draws anew"]
        self.generator.set_state(state["generator"])
        return []

    def _load_envs(self, states: list[dict[str, Any] | None], step: int) -> list[str]:
        """Continue the environments; the lanes of those that cannot be are cut and named."""
        lost = self.envs.set_state(states)
        for lane in lost:
            self.replay.end_lane(lane)
        for lane in (lane for lane in lost if states[lane] is None):  # not a stream: it goes on
            self.envs.envs[lane].close()
            seed = stream_seed(self._config.seed, f"envs/{lane}/{step}")
            self.envs.envs[lane] = make(self._config.env, seed)
        return [f"environments {lost} cannot be saved: they start new episodes"] if lost else []


def no_action(spec: ActionSpec, count: int) -> np.ndarray:
    """What the replay stores where no action led to a row: -1, or zeros."""
    if spec.kind == "discrete":
        return np.full(count, -1, np.int64)
    return np.zeros((count, spec.size), np.float32)
