"""Durable files: synced before they are named, renamed into place, provable by their checksum."""

import errno
import os
import zlib
from pathlib import Path
from typing import Any

from worldmodels.errors import UserError

_CHUNK = 1 << 20
_UNUSABLE = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError)


def write_text(path: Path, text: str) -> None:
    """Write a small text file so that it is either the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def save_tensors(path: Path, value: Any) -> None:
    """`torch.save` that raises the disk's own OSError, which torch hides behind a RuntimeError."""
    import torch

    try:
        with path.open("wb") as file:
            torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def unwritable(what: str, folder: Path, error: OSError) -> UserError:
    """The error for a failed write of `what` into `folder`, with the advice that fits its cause."""
    advice = "check the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "free disk space, then resume the run"
    elif isinstance(error, _UNUSABLE) or error.errno == errno.EROFS:
        advice = "make the folder writable or choose another run folder with --run"
    return UserError(f"cannot write the {what} in {folder} ({error.strerror}); {advice}")
