"""Procgen, one game at a time, exactly restorable.

The emulator starts the next episode within the step that ends one, so the true last frame of an
episode is lost. Its row repeats the frame before, with `obs_valid` false; the next `reset` gives
the frame that the emulator already shows.
"""

from dataclasses import asdict
from hashlib import sha256
from typing import Any

import numpy as np

from worldmodels.envs.errors import UserError
from worldmodels.envs.procgen_config import ProcgenConfig
from worldmodels.envs.procgen_library import RESET, Emulator
from worldmodels.envs.procgen_replay import ReplayedEmulator
from worldmodels.envs.procgen_scores import PROCGEN_SCORES
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step

_MODES = {"easy": 0, "hard": 1, "extreme": 2, "memory": 10}

_EXPLORATION_LEVELS = {
    "caveflyer": 1259048185,
    "climber": 1561126160,
    "coinrun": 1949448038,
    "heist": 876640971,
    "jumper": 1434825276,
    "leaper": 1318677581,
    "maze": 158988835,
    "ninja": 1123500215,
}
"""The hard level of a game's exploration mode; source: procgen/env.py in openai/procgen."""


class Procgen:
    """One Procgen game. Observation: `image` uint8 [64, 64, 3]; 15 actions."""

    Config = ProcgenConfig

    def __init__(self, config: ProcgenConfig, seed: int):
        self._config = config
        emulator_class = ReplayedEmulator if config.use_generated_assets else Emulator
        self._emulator = emulator_class(_emulator_options(config, seed))
        self._is_new = True  # the emulator shows an episode of which no row has been given
        self._steps = 0  # of the episode
        self._level_steps = 0
        low, high = _scores(config)
        self.spec = EnvSpec(
            name=config.name,
            obs={"image": ObsSpec((64, 64, 3), "image")},
            action=ActionSpec("discrete", 15),
            random_score=low,
            reference_score=high,
        )

    def reset(self) -> Step:
        """The episode that the emulator has begun; in mid-episode, a new one."""
        if not self._is_new:
            self._emulator.act(RESET)
        self._is_new = False
        self._steps = self._level_steps = 0
        return Step.row({"image": self._emulator.frame}, is_first=True)

    def step(self, action: np.ndarray) -> Step:
        """One step; where it ends the episode, its frame is the one before, not valid."""
        before = self._emulator.frame.copy()
        reward, ended, complete = self._emulator.act(int(action))
        self._steps += 1
        self._level_steps += 1
        if ended:
            self._is_new = True
            # The emulator does not say which: at its limit, without a reward, it was the limit.
            at_limit = self._level_steps == self._config.time_limit
            truncated = at_limit and reward == 0 and not complete
            return Step.row(
                {"image": before},
                reward,
                is_last=True,
                is_terminal=not truncated,
                obs_valid=False,
            )
        if complete:  # sequential levels: the emulator's clock starts again with each
            self._level_steps = 0
        truncated = self._steps == self._config.max_steps
        return Step.row({"image": self._emulator.frame}, reward, is_last=truncated)

    def get_state(self) -> dict[str, Any]:
        """The emulator's state and the counters, with what they belong to; at most 40 kB."""
        emulator = self._emulator.get_state()
        return {
            "config": asdict(self._config),
            "emulator": emulator,
            "sha256": sha256(emulator).hexdigest(),
            "is_new": self._is_new,
            "steps": self._steps,
            "level_steps": self._level_steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state` of the same game with the same options.

        The emulator aborts the process on a state that it cannot read, so none such reaches it.
        """
        self._check_config(state.get("config"))
        emulator = state.get("emulator")
        if not isinstance(emulator, bytes) or sha256(emulator).hexdigest() != state.get("sha256"):
            raise UserError(
                f"cannot restore {self.spec.name}: its saved state is damaged; resume from "
                "another checkpoint"
            )
        if not self._emulator.accepts(emulator):
            raise UserError(
                f"cannot restore {self.spec.name}: its state was saved by another build of "
                "Procgen; install the one that the run was started with"
            )
        self._emulator.set_state(emulator)
        self._is_new = state["is_new"]
        self._steps = state["steps"]
        self._level_steps = state["level_steps"]

    def _check_config(self, saved: Any) -> None:
        """The emulator would take over the saved options without a word."""
        if not isinstance(saved, dict):
            raise UserError(
                f"cannot restore {self.spec.name} from a saved state of another kind of "
                "environment; resume with the environment that the run was started with"
            )
        for option, value in asdict(self._config).items():
            if saved.get(option) != value:
                raise UserError(
                    f"cannot restore {self.spec.name} with {option} {value} from a state saved "
                    f"with {option} {saved.get(option)}; resume with the options that the run was "
                    "started with"
                )

    def close(self) -> None:
        """Free the emulator."""
        self._emulator.close()


def _emulator_options(config: ProcgenConfig, seed: int) -> dict[str, bool | int | str]:
    """`config` in the emulator's terms; its generator takes seeds below 2^31."""
    mode, num_levels, start_level = config.distribution_mode, config.num_levels, config.start_level
    if mode == "exploration":
        mode, num_levels, start_level = "hard", 1, _EXPLORATION_LEVELS[config.game]
    return {
        "env_name": config.game,
        "rand_seed": int(np.random.default_rng(seed).integers(2**31)),
        "distribution_mode": _MODES[mode],
        "num_levels": num_levels,
        "start_level": start_level,
        "use_sequential_levels": config.use_sequential_levels,
        "use_backgrounds": config.use_backgrounds,
        "restrict_themes": config.restrict_themes,
        "use_generated_assets": config.use_generated_assets,
        "use_monochrome_assets": config.use_monochrome_assets,
        "center_agent": config.center_agent,
        "paint_vel_info": config.paint_vel_info,
    }


def _scores(config: ProcgenConfig) -> tuple[float | None, float | None]:
    """R_min and R_max; none for the return of several levels."""
    if config.use_sequential_levels:
        return None, None
    return PROCGEN_SCORES[config.game].get(config.distribution_mode, (None, None))
