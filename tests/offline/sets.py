"""Random valid data sets, their rows by a plain loop, and both ways of writing them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
WIDE = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
IMAGE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
PLANES = spaces.Box(0, 1, (3, 2, 4), bool)  # type: ignore[arg-type]
CHOICE = spaces.Discrete(4, start=2)
OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "wide": WIDE,
    "image": IMAGE,
    "choice": CHOICE,
    "several": spaces.Dict([("a", VECTOR), ("b", IMAGE), ("c", CHOICE)]),
}
PLAIN: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "wide": WIDE,
    "image": IMAGE,
    "planes": PLANES,
    "several": spaces.Dict([("a", VECTOR), ("b", IMAGE), ("p", PLANES)]),
}
"""What .npz files can say of themselves."""
ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "scaled": spaces.Box(np.array([-3.0, 0.0]), np.array([5.0, 0.5]), dtype=np.float64),
}

Arrays = dict[str, Any]


@dataclass
class Raw:
    """A data set before it is written: spaces, and an `Arrays` per episode."""

    observation: spaces.Space
    action: spaces.Space
    episodes: list[Arrays]
    extra: dict[str, Any] = field(default_factory=dict)


def draw(space: spaces.Space, count: int, random: np.random.Generator) -> Any:
    """`count` values of a space, on its bounds too."""
    if isinstance(space, spaces.Dict):
        return {key: draw(part, count, random) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return random.integers(space.start, space.start + space.n, count)
    assert isinstance(space, spaces.Box)
    shape = (count, *space.shape)
    if space.dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    if space.dtype == np.bool_:
        return random.random(shape) < 0.5
    if not space.is_bounded("both"):
        return (1000 * random.standard_normal(shape)).astype(space.dtype)
    values = np.clip(random.uniform(-0.2, 1.2, shape), 0, 1)
    return (space.low + values * (space.high - space.low)).astype(space.dtype)


def make_raw(observation: spaces.Space, action: spaces.Space, lengths: list[int], seed: int) -> Raw:
    random = np.random.default_rng(seed)
    episodes = []
    for count in lengths:
        last = np.arange(count) == count - 1
        kind = random.integers(3)  # terminated, truncated, or both
        episodes.append(
            {
                "observations": draw(observation, count + 1, random),
                "actions": draw(action, count, random),
                "rewards": random.standard_normal(count),
                "terminations": last & (kind != 1),
                "truncations": last & (kind != 0),
            }
        )
    return Raw(observation, action, episodes)


def expected(raw: Raw) -> list[list[dict[str, Any]]]:
    """Rows of every episode (design law 1), one at a time and by hand."""
    out = []
    for episode in raw.episodes:
        count = len(episode["actions"])
        rows = []
        for t in range(count + 1):
            rows.append(
                {
                    **{f"obs.{k}": v for k, v in seen(raw.observation, episode, t).items()},
                    "prev_action": acted(raw.action, episode["actions"][t - 1] if t else None),
                    "reward": np.float32(episode["rewards"][t - 1]) if t else np.float32(0),
                    "is_first": t == 0,
                    "is_last": t == count,
                    "is_terminal": t == count and bool(episode["terminations"][-1]),
                }
            )
        out.append(rows)
    return out


def seen(space: spaces.Space, episode: Arrays, t: int) -> dict[str, np.ndarray]:
    if isinstance(space, spaces.Dict):
        parts = {k: (part, episode["observations"][k][t]) for k, part in space.spaces.items()}
        return {key: kept(*part)[1] for key, part in parts.items()}
    return dict([kept(space, episode["observations"][t])])


def kept(space: spaces.Space, value: Any) -> tuple[str, np.ndarray]:
    """Kind and array of one observation."""
    if isinstance(space, spaces.Discrete):
        return "vector", np.eye(space.n, dtype=np.float32)[value - space.start]
    if space.dtype == np.uint8:
        return "image", value
    if space.dtype == np.bool_:
        return "planes", value
    return "vector", value.ravel().astype(np.float32)


def acted(space: spaces.Space, action: Any) -> Any:
    """The action that led here, in our own terms."""
    if isinstance(space, spaces.Discrete):
        return -1 if action is None else action - space.start
    assert isinstance(space, spaces.Box)
    if action is None:
        return np.zeros(space.shape, np.float32)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (2 * (action - low) / (high - low) - 1).astype(np.float32)


def same_rows(read: list[Any], rows: list[list[dict[str, Any]]]) -> None:
    """What was read, an episode each, is what is expected; actions but for rounding."""
    assert [len(one) for one in read] == [len(episode) for episode in rows]
    for one, episode in zip(read, rows, strict=True):
        columns = {f"obs.{key}": values for key, values in one.obs.items()}
        columns |= {name: getattr(one, name) for name in episode[0] if name[:4] != "obs."}
        for t, row in enumerate(episode):
            assert {name for name in columns if name[:4] == "obs."} <= row.keys()
            for name, value in row.items():
                if name == "prev_action":
                    np.testing.assert_allclose(columns[name][t], value, atol=1e-6)
                else:
                    np.testing.assert_array_equal(columns[name][t], value, name)
        assert one.obs_valid.all()


def write_minari(raw: Raw, out: Path, **about: Any) -> Path:
    """As a stranger writes it, with Minari's own storage; the file with the data."""
    from minari import __version__
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (out / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        out / "data", raw.observation, raw.action, env_spec=None, jpeg_encoding=False
    )
    storage.update_metadata({"dataset_id": out.name, "minari_version": __version__, **about})
    buffers = [EpisodeBuffer(id=i, **episode) for i, episode in enumerate(raw.episodes)]
    storage.update_episodes(buffers)
    return out / "data" / "main_data.hdf5"


def write_npz(raw: Raw, out: Path, compressed: bool = False) -> Path:
    """All episodes end to end in one file, with their lengths."""
    columns: dict[str, list[np.ndarray]] = {}
    for episode in raw.episodes:
        observations = episode["observations"]
        parts = {"observations": observations}
        if isinstance(observations, dict):
            parts = {f"observations.{key}": values for key, values in observations.items()}
        for name, values in {**parts, **{k: episode[k] for k in COLUMNS}}.items():
            columns.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    arrays["lengths"] = np.array([len(episode["actions"]) for episode in raw.episodes])
    save = np.savez_compressed if compressed else np.savez
    save(out, **arrays, **options(raw.action), **raw.extra)
    return out


COLUMNS = ("actions", "rewards", "terminations", "truncations")


def options(action: spaces.Space) -> dict[str, Any]:
    """What an .npz must say of its actions."""
    if isinstance(action, spaces.Discrete):
        return {"num_actions": int(action.n)}
    assert isinstance(action, spaces.Box)
    return {"action_low": action.low, "action_high": action.high}


def edit_metadata(folder: Path, **changes: Any) -> None:
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
