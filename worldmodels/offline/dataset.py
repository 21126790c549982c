"""A data set by the text that a user gives: what it is, and what every kind of it tells."""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError, near
from worldmodels.files import checksum
from worldmodels.replay.recorded import Recorded

EXTRA = 'pip install "worldmodels-rl[offline]"'


@dataclass(frozen=True)
class References:
    """Mean returns that a data set calls 0 and 1."""

    low: float | None = None
    """Of a random policy; Minari's ref_min_score."""
    high: float | None = None
    """Of an expert; Minari's ref_max_score."""


class DataSet(Protocol):
    """Episodes on disk. Opening one looks at its shape; `read` checks every row."""

    kind: str
    """`minari`, `run` or `npz`."""
    path: Path
    name: str
    """Its id, or what it is called on disk."""
    obs: dict[str, ObsSpec]
    action: ActionSpec
    rows: int
    """As announced."""
    references: References
    environment: dict[str, Any] | None
    """Name and options of the environment, where that was noted."""

    def read(self) -> Iterator[Recorded]:
        """Every row, checked: an episode at a time, or a part of one with its own ids."""
        ...

    def files(self) -> list[Path]:
        """All files that hold data."""
        ...


def open_dataset(text: str, image_size: int = 0) -> DataSet:
    """The data set at a path or, where there is none, the Minari data set of that id.

    `image_size`: of a square that images of Gymnasium spaces are resized to; 0 leaves them.
    """
    path = Path(text).expanduser()
    if (path.suffix == ".npz" and path.is_file()) or (
        path.is_dir() and not _is_special(path) and any(_npz(path))
    ):
        from worldmodels.offline.from_npz import NpzFiles

        files = sorted(_npz(path)) if path.is_dir() else [path]
        return NpzFiles(path.resolve(), files, image_size)
    if (path / "config.yaml").is_file():
        from worldmodels.offline.from_run import RunReplay

        return RunReplay(path)
    from worldmodels.offline.from_minari import Minari

    return Minari(_minari_folder(text, path), image_size)


def spec_of(data: DataSet, name: str) -> EnvSpec:
    """What a world model learns from the data set must know, under an environment's name."""
    low, high = data.references.low, data.references.high
    return EnvSpec(name, data.obs, data.action, random_score=low, reference_score=high)


def fingerprint(data: DataSet) -> str:
    """A checksum over the names, sizes and bytes of all files."""
    crc = 0
    for path in data.files():
        line = f"{path.name} {path.stat().st_size} {checksum(path):08x}\n"
        crc = zlib.crc32(line.encode(), crc)
    return f"crc32:{crc:08x}"


def _npz(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.npz") if path.is_file())


def _is_special(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.yaml", "metadata.json"))


def _minari_folder(text: str, path: Path) -> Path:
    """The folder with Minari's metadata.json."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
    for folder in (path, path / "data", root / text / "data"):
        if (folder / "metadata.json").is_file():
            return folder.resolve()
    if path.exists():
        raise UserError(
            f"{path} is no data set: a Minari data set has a file metadata.json, a run folder a "
            "config.yaml, and others are files *.npz (docs/offline.md)"
        )
    ids = [folder.parent.parent.relative_to(root) for folder in root.glob("**/data/metadata.json")]
    beside = (other.name for other in path.parent.glob("*"))
    advice = near(text, map(str, ids)) or near(path.name, beside)
    if not advice and re.search(r"-v\d+$", text):
        advice = f"; `minari download {text}` fetches it, if it is known"
    raise UserError(
        f"there is no data set {text}, neither as a path nor as an id in {root}"
        + (advice or "; name a folder or a file that is there")
    )
