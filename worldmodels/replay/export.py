"""A replay's episodes as a Minari data set, losslessly."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.folder import Episode, ReplayFolder

CHUNK = 100
"""Episodes written at a time."""


def export_minari(replay: ReplayFolder, out: Path, name: str) -> tuple[int, int]:
    """Write every whole episode to the Minari data set `out`/data; returns episodes and steps.

    `minari.MinariDataset(out / "data")` reads it; `minari.load_dataset(name)` does, where `out` is
    the folder `name` of Minari's own. An episode of k actions has k + 1 observations, as in the
    replay; images are stored as they are, not as JPEG.
    """
    try:
        from minari import __version__
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise UserError(
            'the export needs minari, which is not installed; run: pip install "worldmodels-rl'
            '[offline]"'
        ) from error
    out = out.resolve()  # minari joins a relative path to itself
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder with --out")
    observation, action = _spaces(replay)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        storage = MinariStorage.new(
            partial / "data", observation, action, env_spec=None, jpeg_encoding=False
        )
        about = f"replay of the environment {replay.layout.spec.name}"
        known = {"dataset_id": name, "minari_version": __version__, "description": about}
        storage.update_metadata(known)
        episodes = enumerate(replay.episodes())
        while chunk := list(islice(episodes, CHUNK)):
            storage.update_episodes([_buffer(number, episode) for number, episode in chunk])
        count, steps = int(storage.total_episodes), int(storage.total_steps)
        if count == 0:
            raise UserError(f"{replay.path} holds no whole episode; nothing was exported")
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write the data set {out} ({error.strerror}); name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count, steps


def _spaces(replay: ReplayFolder) -> tuple[Any, Any]:
    """Gymnasium spaces of observations and actions."""
    from gymnasium import spaces

    limits = {"image": (0, 255), "planes": (0, 1), "vector": (-np.inf, np.inf)}
    obs: dict[str, Any] = {}
    for key, spec in replay.layout.spec.obs.items():
        low, high = limits[spec.kind]
        obs[key] = spaces.Box(low, high, spec.shape, _stored(spec.dtype).type)
    action = replay.layout.spec.action
    observation = next(iter(obs.values())) if len(obs) == 1 else spaces.Dict(obs)
    if action.kind == "discrete":
        return observation, spaces.Discrete(action.size)
    return observation, spaces.Box(-1, 1, (action.size,), np.float32)


def _stored(dtype: np.dtype) -> np.dtype:
    """Boolean planes travel as bytes: Minari has no boolean boxes."""
    return np.dtype(np.uint8) if dtype == np.bool_ else dtype


def _buffer(number: int, episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    obs: Any = {key: values.astype(_stored(values.dtype)) for key, values in episode.obs.items()}
    ends = np.arange(1, len(episode.reward) + 1) == len(episode.reward)
    action: Any = episode.action.astype(np.int64) if episode.action.ndim == 1 else episode.action
    return EpisodeBuffer(
        id=number,
        observations=next(iter(obs.values())) if len(obs) == 1 else obs,
        actions=action,
        rewards=episode.reward.tolist(),
        terminations=(ends & episode.terminated).tolist(),
        truncations=(ends & (not episode.terminated)).tolist(),
        infos={"task": np.full(len(episode.reward) + 1, episode.task)},
    )
