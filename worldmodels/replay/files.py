"""Array files that are either whole or absent, and that can be proved unchanged.

A file is written beside its place, synced, and renamed to a name that carries the checksum of its
bytes: two contents never share a name, so no later write can change what a checkpoint refers to.
"""

import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodels.errors import UserError

CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNUSABLE = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError)


class CorruptReplay(UserError):
    """A file of the replay is missing, torn or altered."""


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
        raise unwritable(folder, error) from error
    return FileRecord(name, size, crc)


def write_text(path: Path, text: str) -> None:
    """Durably write a small text file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


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
    with np.load(folder / record.name, allow_pickle=False) as arrays:
        yield arrays


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(folder: Path, error: OSError) -> UserError:
    """The error for a failed write into `folder`, with the advice that fits its cause."""
    advice = "check the disk"
    if error.errno in FULL:
        advice = "free disk space, then resume the run"
    elif isinstance(error, UNUSABLE) or error.errno == errno.EROFS:
        advice = "make the folder writable or choose another run folder"
    return UserError(f"cannot write the replay into {folder} ({error.strerror}); {advice}")
