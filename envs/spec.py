"""What an environment says of itself, and the `Step` that travels from it to the collector.

Letters: E environments. Everything here is numpy; images are uint8 HWC.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class ObsSpec:
    """One entry of the observation dict."""

    shape: tuple[int, ...]
    """Shape without the leading E."""
    kind: Literal["image", "planes", "vector"]
    """`image`: uint8 HWC; `planes`: bool HWC; `vector`: float32, one axis."""

    @property
    def dtype(self) -> np.dtype:
        """The numpy type that this kind travels in."""
        return np.dtype({"image": np.uint8, "planes": np.bool_, "vector": np.float32}[self.kind])


@dataclass(frozen=True)
class ActionSpec:
    """The action space as the agent sees it."""

    kind: Literal["discrete", "continuous"]
    size: int
    """Number of choices (`discrete`, actions are int64 [E]) or of dimensions (`continuous`,
    actions are float32 [E, size] in [-1, 1]; the environment scales them to its own bounds)."""


@dataclass(frozen=True)
class EnvSpec:
    """What a world model needs to know before the first step."""

    name: str
    obs: dict[str, ObsSpec]
    action: ActionSpec
    frame_skip: int = 1
    """Emulator frames per agent step."""
    random_score: float | None = None
    """Mean return of a uniformly random policy, for normalised scores."""
    reference_score: float | None = None
    """Mean return of the human (or best possible) player, for normalised scores."""
    memoryless_score: float | None = None
    """Mean return of the best policy, also a random one, that sees only the current observation."""


@dataclass
class Step:
    """What arrived from E environments (design law 1): row t of each environment's stream."""

    obs: dict[str, np.ndarray]
    """[E, ...] per key of the spec, freshly owned."""
    reward: np.ndarray
    """float32 [E], received on arriving at `obs`; 0 where `is_first`."""
    is_first: np.ndarray
    """bool [E]: an episode starts here; recurrent state is cut."""
    is_last: np.ndarray
    """bool [E]: terminated or truncated; the next call resets and ignores its action."""
    is_terminal: np.ndarray
    """bool [E]: no value beyond this row (terminated, or a lost life where that option is on)."""
    life_lost: np.ndarray
    """bool [E]: a life was lost on arriving here, whatever the options say."""
    obs_valid: np.ndarray
    """bool [E]: False only where the emulator does not show the true last frame."""
    is_real_step: np.ndarray
    """bool [E]: the given action was executed; False on the row that a reset gives."""
    task: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 [E]: index of the task within a stream of tasks, 0 everywhere if left out. For logs and
    diagnostics alone: it reaches neither the agent nor a batch."""

    def __post_init__(self):
        if not len(self.task):
            self.task = np.zeros(len(self.reward), np.int32)

    @staticmethod
    def row(
        obs: dict[str, np.ndarray],
        reward: float = 0.0,
        *,
        is_first: bool = False,
        is_last: bool = False,
        is_terminal: bool = False,
        life_lost: bool = False,
        obs_valid: bool = True,
        task: int = 0,
    ) -> "Step":
        """The row of one environment (E = 1) from its plain values; copies every observation."""
        return Step(
            obs={key: np.array(value)[None] for key, value in obs.items()},
            reward=np.array([reward], np.float32),
            is_first=np.array([is_first]),
            is_last=np.array([is_last]),
            is_terminal=np.array([is_terminal]),
            life_lost=np.array([life_lost]),
            obs_valid=np.array([obs_valid]),
            is_real_step=np.array([not is_first]),
            task=np.array([task], np.int32),
        )

    def lane(self, index: int) -> "Step":
        """One environment's row alone (E = 1), in memory of its own."""
        row = slice(index, index + 1)
        flags = {name: getattr(self, name)[row].copy() for name in _FLAT}
        return Step(obs={key: value[row].copy() for key, value in self.obs.items()}, **flags)

    @staticmethod
    def stack(steps: "list[Step]") -> "Step":
        """E steps of one environment each (leading axis 1) as one `Step`."""
        flags = {name: np.concatenate([getattr(step, name) for step in steps]) for name in _FLAT}
        obs = {key: np.concatenate([step.obs[key] for step in steps]) for key in steps[0].obs}
        return Step(obs=obs, **flags)


_FLAT = tuple(field.name for field in fields(Step) if field.name != "obs")
"""The fields of a `Step` that are one number per environment."""


class Env(Protocol):
    """One environment. `get_state` and `set_state` make a run resumable in mid-episode."""

    spec: EnvSpec

    def reset(self) -> "Step":
        """Start an episode: E = 1, `is_first`, reward 0. Draws from the env's own generator."""
        ...

    def step(self, action: np.ndarray) -> "Step":
        """Execute one action (int64 scalar or float32 [size]); E = 1."""
        ...

    def get_state(self) -> dict[str, Any] | None:
        """Everything that decides the future, or None where the environment cannot be saved.

        Values are bytes, str, int, float, bool, None, numpy arrays, or lists and dicts of these.
        """
        ...

    def set_state(self, state: dict[str, Any]) -> bool | None:
        """Continue exactly from `get_state`'s answer; True where only a reset can follow."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...
