"""Atari 2600 on the Arcade Learning Environment, one game at a time, exactly restorable.

The protocol is `AtariConfig`. Nothing of ale-py's own Gymnasium wrappers is used: they fix parts of
the protocol, and neither they nor the native vector environment can be saved in mid-episode.
"""

from typing import Any

import numpy as np

from worldmodels.envs.atari_scores import ATARI_SCORES
from worldmodels.envs.configs import AtariConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.images import image_resizer
from worldmodels.envs.names import atari_roms
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step

_NOOP, _FIRE = 0, 1  # ALE's action codes


class Atari:
    """One Atari game. Observation: `image` uint8 [size, size, 3], or 1 channel for grayscale."""

    Config = AtariConfig

    def __init__(self, config: AtariConfig, seed: int):
        game = config.name.partition(":")[2]
        self._config = config
        self._random = np.random.default_rng(seed)
        self._ale = _load_game(atari_roms()[game], int(self._random.integers(2**31)))
        actions = (
            self._ale.getLegalActionSet()
            if config.full_action_space
            else self._ale.getMinimalActionSet()
        )
        self._actions = [int(action.value) for action in actions]
        self._fire = config.fire_on_reset and _FIRE in self._actions
        self._resize = image_resizer(config.image_size, config.resize, config.grayscale)
        height, width = self._ale.getScreenDims()
        # The two newest drawn frames; one pair of buffers for the life of the environment.
        self._newer, self._older, self._pooled = np.zeros((3, height, width, 3), np.uint8)
        self._previous = _NOOP
        self._frame_count = 0
        self._lives = 0
        self._life_ended = False
        size, channels = config.image_size, 1 if config.grayscale else 3
        random_score, human_score = ATARI_SCORES.get(game, (None, None))
        self.spec = EnvSpec(
            name=config.name,
            obs={"image": ObsSpec((size, size, channels), "image")},
            action=ActionSpec("discrete", len(self._actions)),
            frame_skip=config.frame_skip,
            random_score=random_score,
            reference_score=human_score,
        )

    def reset(self) -> Step:
        """A new game, or the same one where only a life had ended the episode."""
        if not self._life_ended:
            self._new_game()
        self._life_ended = False
        if self._fire:
            self._ale.act(_FIRE)
            self._draw()
        self._lives = self._ale.lives()
        return Step.row(self._obs(), is_first=True)

    def _new_game(self) -> None:
        self._ale.reset_game()
        for _ in range(int(self._random.integers(self._config.noop_max + 1))):
            self._ale.act(_NOOP)
            if self._ale.game_over(with_truncation=False):
                self._ale.reset_game()
        self._previous = _NOOP
        self._frame_count = 0
        self._draw()
        self._older[:] = self._newer

    def step(self, action: np.ndarray) -> Step:
        """Hold the action for `frame_skip` frames, or until the game ends within them."""
        config = self._config
        points, over, truncated = self._play(self._actions[int(action)])
        lives = self._ale.lives()
        life_lost = lives < self._lives
        # Zero lives before game over: the coming game over is the end (Q*bert did so once; the
        # rule is that of EpisodicLifeEnv in OpenAI Baselines).
        ends_value = life_lost and lives > 0 and config.life_loss != "off"
        self._life_ended = ends_value and config.life_loss == "episode" and not (over or truncated)
        self._lives = lives
        return Step.row(
            self._obs(),
            max(-1, min(1, points)) if config.reward_clip else points,
            is_last=over or truncated or self._life_ended,
            is_terminal=over or ends_value,
            life_lost=life_lost,
        )

    def _play(self, action: int) -> tuple[int, bool, bool]:
        """Points, game over, truncated, after the frames of one step."""
        config, ale = self._config, self._ale
        points, over, truncated = 0, False, False
        for frame in range(config.frame_skip):
            points += ale.act(self._sticky(action))
            self._frame_count += 1
            over = ale.game_over(with_truncation=False)
            truncated = self._frame_count >= config.max_frames
            ended = over or truncated
            if ended or frame >= config.frame_skip - config.max_pool:
                self._draw()
            if ended:
                if frame < config.frame_skip - 1:
                    # The frame before this one was not drawn: the last frame stands alone.
                    self._older[:] = self._newer
                break
        return points, over, truncated

    def _sticky(self, action: int) -> int:
        """The action that this frame runs (Machado et al. 2018).

        ALE's own sticky actions keep the previous action outside of the state that it saves.
        """
        if self._config.sticky and self._random.random() < self._config.sticky:
            return self._previous
        self._previous = action
        return action

    def _draw(self) -> None:
        self._newer, self._older = self._older, self._newer
        self._ale.getScreenRGB(self._newer)

    def _obs(self) -> dict[str, np.ndarray]:
        frame = self._newer
        if self._config.max_pool == 2:
            frame = np.maximum(self._newer, self._older, out=self._pooled)
        return {"image": self._resize(frame)}

    def get_state(self) -> dict[str, Any]:
        """Emulator, the two drawn frames, and all counters; about 220 kB."""
        return {
            "name": self.spec.name,
            "emulator": self._ale.cloneState(include_rng=True).__getstate__(),
            # A restored emulator has not drawn its screen, so the frames travel with it.
            "frames": np.stack([self._newer, self._older]),
            "previous": self._previous,
            "frame_count": self._frame_count,
            "lives": self._lives,
            "life_ended": self._life_ended,
            "random": self._random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state` of the same game."""
        if state["name"] != self.spec.name:
            raise UserError(
                f"cannot restore {self.spec.name} from a saved state of {state['name']}; "
                "resume with the environment that the run was started with"
            )
        from ale_py import ALEState

        self._ale.restoreState(ALEState(state["emulator"]))
        self._newer[:], self._older[:] = state["frames"]
        self._previous = state["previous"]
        self._frame_count = state["frame_count"]
        self._lives = state["lives"]
        self._life_ended = state["life_ended"]
        self._random.bit_generator.state = state["random"]

    def close(self) -> None:
        """The emulator is freed with this object."""


def _load_game(rom: str, seed: int) -> Any:
    """An `ALEInterface` with `rom` loaded, without ALE's banner and without its sticky actions."""
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(roms.get_rom_path(rom)))
    return ale
