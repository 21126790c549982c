"""Whole episodes as a Minari data set, losslessly; `from_minari` reads back the same rows.

Letters: T actions of an episode, which make T + 1 rows.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.offline.dataset import EXTRA
from worldmodels.offline.from_minari import MARKERS, OURS, stored_type
from worldmodels.replay.recorded import Recorded
from worldmodels.replay.rows import RowLayout

CHUNK = 4096
"""Rows that are written at a time, at least, but for the last."""


def write_minari(
    out: Path, spec: EnvSpec, episodes: Iterable[Recorded], about: Mapping[str, Any]
) -> tuple[int, int]:
    """Write every episode to the Minari data set `out`/data; returns episodes and steps.

    `minari.MinariDataset(out / "data")` reads it; `minari.load_dataset(name)` does, where `out` is
    the folder `name` of Minari's own. An episode of T actions has T + 1 observations; images are
    stored as they are, not as JPEG. What Minari has no place for (lost lives, last frames that
    were not seen, tasks of a stream) is among the infos. `about`: further metadata, of which the
    entry `worldmodels` is ours; it is read after the last episode.
    """
    try:
        import h5py  # noqa: F401  minari writes with it, and asks for it only then
        from minari import __version__
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise UserError(
            f"writing a data set needs minari and h5py, which are not installed; run: {EXTRA}"
        ) from error
    out = out.resolve()  # minari joins a relative path to itself
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder with --out")
    observation, action = _spaces(spec)
    partial = out.with_name(f".{out.name}.partial")
    layout = RowLayout(spec).as_json()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        storage = MinariStorage.new(
            partial / "data", observation, action, env_spec=None, jpeg_encoding=False
        )
        for chunk in _chunks(episodes):
            storage.update_episodes([_buffer(*one, spec) for one in chunk])
        known = {"dataset_id": out.name, "minari_version": __version__, **about}
        known[OURS] = {"observations": layout["observations"], **known.get(OURS, {})}
        storage.update_metadata(known)
        count, steps = int(storage.total_episodes), int(storage.total_steps)
        if count == 0:
            raise UserError(f"there is no whole episode to write to {out}; nothing was written")
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write the data set {out} ({error.strerror}); name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count, steps


def _chunks(episodes: Iterable[Recorded]) -> Iterator[list[tuple[int, Recorded]]]:
    """Numbered episodes, as many at a time as make `CHUNK` rows."""
    chunk: list[tuple[int, Recorded]] = []
    for number, episode in enumerate(episodes):
        chunk.append((number, episode))
        if sum(len(one) for _, one in chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _spaces(spec: EnvSpec) -> tuple[Any, Any]:
    """Gymnasium spaces of observations and actions."""
    from gymnasium import spaces

    limits = {"image": (0, 255), "planes": (0, 1), "vector": (-np.inf, np.inf)}
    obs: dict[str, Any] = {}
    for key, one in spec.obs.items():
        low, high = limits[one.kind]
        obs[key] = spaces.Box(low, high, one.shape, stored_type(one).type)
    observation = next(iter(obs.values())) if len(obs) == 1 else spaces.Dict(obs)
    if spec.action.kind == "discrete":
        return observation, spaces.Discrete(spec.action.size)
    return observation, spaces.Box(-1, 1, (spec.action.size,), np.float32)


def _buffer(number: int, episode: Recorded, spec: EnvSpec) -> Any:
    from minari.data_collector import EpisodeBuffer

    obs: Any = {key: episode.obs[key].astype(stored_type(one)) for key, one in spec.obs.items()}
    terminated = episode.is_last & episode.is_terminal
    action: Any = episode.prev_action[1:]
    return EpisodeBuffer(
        id=number,
        observations=next(iter(obs.values())) if len(obs) == 1 else obs,
        actions=action,
        rewards=episode.reward[1:].tolist(),
        terminations=terminated[1:].tolist(),
        truncations=(episode.is_last & ~terminated)[1:].tolist(),
        infos={name: getattr(episode, name) for name in MARKERS},
    )
