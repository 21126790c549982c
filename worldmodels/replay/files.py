"""Array files that are either whole or absent, and that can be proved unchanged.

A file is written beside its place, synced, and renamed to a name that carries the checksum of its
bytes: two contents never share a name, so no later write can change what a checkpoint refers to.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from worldmodels.errors import UserError
from worldmodels.files import checksum, sync_folder, unwritable


class CorruptReplay(UserError):
    """A file of the replay is missing, torn or altered."""

    @property
    def what(self) -> str:
        """The damage, without the advice that follows it."""
        return str(self).partition("; ")[0]


@dataclass(frozen=True)
class FileRecord:
    """What a checkpoint remembers of a file that it needs."""

    name: str
    """File name without its folder, so that a run folder may be moved."""
    size: int
    """Bytes."""
    crc: int
    """CRC-32 of all bytes."""


def write_arrays(folder: Path, stem: str, arrays: Mapping[str, np.ndarray]) -> FileRecord:
    """Durably write `folder/<stem>_<crc>.npz`; where that fails a UserError, and no file."""
    temporary = folder / f".{stem}.tmp"
    try:
        with temporary.open("wb") as file:
            np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        crc = checksum(temporary)
        size = temporary.stat().st_size
        name = f"{stem}_{crc:08x}.npz"
        os.replace(temporary, folder / name)
        sync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable("replay", folder, error) from error
    return FileRecord(name, size, crc)


def verify(folder: Path, record: FileRecord) -> None:
    """Raise CorruptReplay unless the recorded file is there with the recorded bytes."""
    path = folder / record.name
    try:
        size = path.stat().st_size
        crc = checksum(path) if size == record.size else None
    except OSError as error:
        raise CorruptReplay(
            f"replay file {path} cannot be read ({error.strerror}); resume from another checkpoint"
        ) from error
    if size != record.size:
        raise CorruptReplay(
            f"replay file {path} has {size} bytes instead of {record.size}; "
            "resume from another checkpoint"
        )
    if crc != record.crc:
        raise CorruptReplay(
            f"replay file {path} does not hold what was written (its checksum differs); "
            "resume from another checkpoint"
        )


@contextmanager
def open_arrays(folder: Path, record: FileRecord) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a verified file by name, each read from disk when it is asked for."""
    try:
        arrays = np.load(folder / record.name, allow_pickle=False)
    except (OSError, ValueError, BadZipFile) as error:
        raise CorruptReplay(
            f"replay file {folder / record.name} cannot be read ({error}); resume from another "
            "checkpoint"
        ) from error
    with arrays:
        yield arrays


class Prefixed(Mapping[str, np.ndarray]):
    """The arrays whose names begin with a prefix, read when they are asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray], prefix: str):
        self._arrays, self._prefix = arrays, prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[self._prefix + name]

    def __iter__(self):
        return (n.removeprefix(self._prefix) for n in self._arrays if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
