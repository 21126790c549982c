"""Gymnasium spaces as specs, with the functions that translate observations and actions."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldmodels.envs.errors import UserError
from worldmodels.envs.images import image_resizer
from worldmodels.envs.spec import ActionSpec, ObsSpec

Reader = Callable[[Any], np.ndarray]

_SUPPORTED_OBS = (
    "supported are uint8 images [H, W, 1 or 3], boolean planes [H, W, C], numeric vectors, "
    "Discrete, MultiDiscrete, MultiBinary, and a flat Dict of these"
)


def read_observation_space(
    space: gym.Space, name: str, image_size: int
) -> tuple[dict[str, ObsSpec], Callable[[Any], dict[str, np.ndarray]]]:
    """The specs of `space` and the function that turns an observation into their arrays.

    A space that is no Dict gets one key, named after its kind. `image_size` 0 keeps image sizes.
    """
    if not isinstance(space, spaces.Dict):
        spec, read = _leaf(space, name, "", image_size)
        return {spec.kind: spec}, lambda obs: {spec.kind: read(obs)}
    leaves = {key: _leaf(sub, name, f" '{key}'", image_size) for key, sub in space.spaces.items()}
    return (
        {key: spec for key, (spec, _) in leaves.items()},
        lambda obs: {key: read(obs[key]) for key, (_, read) in leaves.items()},
    )


def _leaf(space: gym.Space, name: str, key: str, image_size: int) -> tuple[ObsSpec, Reader]:
    """Spec and reader of one observation that is no Dict."""
    match space:
        case spaces.Box() if len(space.shape) in (2, 3) and space.dtype == np.uint8:
            if len(space.shape) == 2 or space.shape[2] in (1, 3):
                return _image(space.shape, image_size)
        case spaces.Box() | spaces.MultiBinary() if _is_planes(space):
            shape = tuple(space.shape)
            return ObsSpec(shape, "planes"), lambda obs: np.asarray(obs, np.bool_)
        case spaces.Box() | spaces.MultiBinary() if len(space.shape) < 3:
            size = int(np.prod(space.shape))
            return ObsSpec((size,), "vector"), lambda obs: np.asarray(obs, np.float32).reshape(-1)
        case spaces.Discrete():
            return _one_hots(np.array([space.n]), np.array([space.start]))
        case spaces.MultiDiscrete() if len(space.shape) == 1:
            return _one_hots(space.nvec, space.start)
    raise UserError(f"{name}: observation space{key} {space} is not supported; {_SUPPORTED_OBS}")


def _is_planes(space: spaces.Box | spaces.MultiBinary) -> bool:
    boolean = space.dtype == np.bool_ or isinstance(space, spaces.MultiBinary)
    return boolean and len(space.shape) == 3


def _image(shape: tuple[int, ...], image_size: int) -> tuple[ObsSpec, Reader]:
    height, width = shape[:2]
    channels = shape[2] if len(shape) == 3 else 1
    resize = image_resizer(image_size) if image_size else None
    if resize is None or (height, width) == (image_size, image_size):
        size = (height, width, channels)
        return ObsSpec(size, "image"), lambda obs: np.asarray(obs, np.uint8).reshape(size)

    def read(obs: Any) -> np.ndarray:
        return resize(np.asarray(obs, np.uint8).reshape(height, width, channels))

    return ObsSpec((image_size, image_size, channels), "image"), read


def _one_hots(sizes: np.ndarray, starts: np.ndarray) -> tuple[ObsSpec, Reader]:
    """One one-hot vector per choice, end to end."""
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    size = int(np.sum(sizes))

    def read(obs: Any) -> np.ndarray:
        vector = np.zeros(size, np.float32)
        vector[offsets + np.atleast_1d(obs) - starts] = 1
        return vector

    return ObsSpec((size,), "vector"), read


def read_action_space(
    space: gym.Space, name: str
) -> tuple[ActionSpec, Callable[[np.ndarray], Any]]:
    """The spec of `space` and the function that turns our action into one of its own.

    Discrete actions count from 0; those of a Box lie in [-1, 1] and are scaled to its bounds.
    """
    match space:
        case spaces.Discrete():
            start = int(space.start)
            return ActionSpec("discrete", int(space.n)), lambda action: int(action) + start
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            if not space.is_bounded("both"):
                raise UserError(
                    f"{name}: action space {space} is not supported because it has no finite "
                    "bounds; wrap the environment with gymnasium.wrappers.RescaleAction or give "
                    "the Box bounds"
                )
            return _scaled(space)
    raise UserError(
        f"{name}: action space {space} is not supported; supported are Discrete and bounded "
        "floating-point Box"
    )


def action_encoder(space: gym.Space) -> Callable[[np.ndarray], np.ndarray]:
    """Inverse of `read_action_space`'s function, for T recorded actions at once.

    [T, ...] within `space` -> int64 [T] that count from 0, or float32 [T, A] in [-1, 1]. A Box of
    these bounds keeps every bit.
    """
    if isinstance(space, spaces.Discrete):
        return lambda actions: actions.astype(np.int64) - int(space.start)
    assert isinstance(space, spaces.Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    middle, half = (low + high) / 2, (high - low) / 2
    half_range = np.where(half > 0, half, 1)  # a Box of one point has a middle alone

    def encode(actions: np.ndarray) -> np.ndarray:
        unit = np.clip((actions.astype(np.float64) - middle) / half_range, -1, 1)
        return unit.reshape(len(actions), -1).astype(np.float32)

    return encode


def _scaled(space: spaces.Box) -> tuple[ActionSpec, Callable[[np.ndarray], np.ndarray]]:
    low, half_range = space.low.astype(np.float64), (space.high.astype(np.float64) - space.low) / 2

    def scale(action: np.ndarray) -> np.ndarray:
        unit = np.clip(np.asarray(action, np.float64), -1, 1).reshape(space.shape)
        # Rounding must not leave the bounds.
        return np.clip(low + (unit + 1) * half_range, space.low, space.high).astype(space.dtype)

    return ActionSpec("continuous", int(np.prod(space.shape))), scale
