"""A recorded replay file: rows of random play, from which every backbone learns the same.

One .npz: `prev_action`, `reward`, the flags and `obs.<key>`, each [R, E, ...] for R rows of E lanes
(independent environments), and `about`, a JSON text that says how it came to be.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldmodels.collector import no_action
from worldmodels.config import ReplayConfig
from worldmodels.envs.rollout import random_action
from worldmodels.envs.spec import EnvSpec, Step
from worldmodels.envs.vector import make_vec
from worldmodels.errors import UserError
from worldmodels.files import unwritable
from worldmodels.replay import Replay
from worldmodels.runtime.rundir import commit
from worldmodels.runtime.seeding import stream_seed

LANES = 8
HELD_OUT = 2
"""The last lanes: learnt from by nobody."""
FLAGS = ("is_first", "is_last", "is_terminal", "life_lost", "obs_valid", "is_real_step")


@dataclass(frozen=True)
class Recording:
    """The contents of a file, and what its environment says of itself."""

    spec: EnvSpec
    about: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    """[R, E, ...] by name."""

    @property
    def rows(self) -> int:
        """R, of each lane."""
        return len(self.arrays["reward"])

    def replay(self, lanes: range, options: ReplayConfig, seed: int) -> Replay:
        """A replay of these lanes, in RAM; the same seed samples the same windows."""
        replay = Replay(options, self.spec, None, len(lanes), None, seed)
        some = slice(lanes.start, lanes.stop)
        for t in range(self.rows):
            row = {name: array[t, some] for name, array in self.arrays.items()}
            obs = {key: row[f"obs.{key}"] for key in self.spec.obs}
            flags = {name: row[name] for name in FLAGS}
            replay.add(Step(obs=obs, reward=row["reward"], **flags), row["prev_action"])
        return replay

    def means(self) -> dict[str, Any]:
        """What the rows of the learning lanes are on average: the simplest prediction."""
        learn = {name: array[:, :-HELD_OUT] for name, array in self.arrays.items()}
        return {
            "reward": float(learn["reward"].mean()),
            "continue": float(1 - learn["is_terminal"].mean()),
            "obs": {key: _mean_row(learn[f"obs.{key}"]) for key in self.spec.obs},
        }


def _mean_row(obs: np.ndarray) -> np.ndarray:
    """obs [R, E, ...] -> float32 [...], images in [0, 1]."""
    scale = 255 if obs.dtype == np.uint8 else 1
    return (obs.mean((0, 1), dtype=np.float64) / scale).astype(np.float32)


def record(env: Any, rows: int, seed: int) -> Recording:
    """`rows` rows of uniformly random play, spread over the lanes."""
    envs = make_vec(env, LANES, stream_seed(seed, "recording/envs"))
    random = np.random.default_rng(stream_seed(seed, "recording/actions"))
    spec = envs.spec
    columns: dict[str, list[np.ndarray]] = {}
    action = no_action(spec.action, LANES)
    for _ in range(-(-rows // LANES)):
        step = envs.step(action)
        led_here = np.where(_like(step.is_first, action), no_action(spec.action, LANES), action)
        row = {"reward": step.reward, "prev_action": led_here}
        row |= {f"obs.{key}": step.obs[key] for key in spec.obs}
        row |= {name: getattr(step, name) for name in FLAGS}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        action = np.stack([random_action(spec.action, random) for _ in range(LANES)])
    envs.close()
    arrays = {name: np.stack(values) for name, values in columns.items()}
    about = {"env": asdict(env), "seed": seed, "policy": "uniformly random", "commit": commit()}
    return Recording(spec, about, arrays)


def _like(mask: np.ndarray, action: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *[1] * (action.ndim - 1))


def save(recording: Recording, path: Path) -> None:
    """Write the file, its folder included."""
    contents: Any = {"about": np.array(json.dumps(recording.about)), **recording.arrays}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, **contents)
    except OSError as error:
        raise unwritable("recording", path.parent, error) from error


def load(path: Path, env: Any) -> Recording:
    """Read a file; UserError where it is none, or not of the environment `env`."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a recorded replay ({error})") from error
    if about["env"] != asdict(env):
        raise UserError(
            f"{path} was recorded in {about['env']}, not in {asdict(env)}; "
            "name that environment and its options, or record anew with another --replay"
        )
    return Recording(env_spec(env), about, arrays)


def env_spec(env: Any) -> EnvSpec:
    """What the environment of a config says of itself."""
    envs = make_vec(env, 1, 0)
    envs.close()
    return envs.spec
