"""The replay's part of a checkpoint folder: `replay.json` and the array files that it names.

Sealed segments stay where they are and are listed; rows that are in no segment file yet, and the
carry, which changes with every update, are written into the checkpoint itself.
"""

import json
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError
from worldmodels.files import unwritable, write_text
from worldmodels.replay.archive import Archive
from worldmodels.replay.files import (
    CorruptReplay,
    FileRecord,
    Prefixed,
    open_arrays,
    verify,
    write_arrays,
)
from worldmodels.replay.store import Store

NAME = "replay.json"


def write_checkpoint(
    directory: Path, body: dict[str, Any], arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Write `body` (JSON values) and each named set of arrays; returns the names of the files."""
    files = {
        name: asdict(write_arrays(directory, f"replay_{name}", values))
        for name, values in arrays.items()
    }
    text = json.dumps({**body, "files": files})
    try:
        write_text(directory / NAME, f"{zlib.crc32(text.encode()):08x}\n{text}\n")
    except OSError as error:
        raise unwritable("replay", directory, error) from error
    return {"index": NAME, "files": files}


def read_checkpoint(directory: Path) -> dict[str, Any]:
    """The `body` that was written, with its `files`; CorruptReplay where it is not intact."""
    path = directory / NAME
    try:
        crc, text, _ = path.read_text(encoding="utf-8").split("\n")
        intact = f"{zlib.crc32(text.encode()):08x}" == crc
    except (OSError, ValueError):
        intact, text = False, ""
    if not intact:
        raise CorruptReplay(
            f"replay index {path} is missing or torn; resume from another checkpoint"
        )
    return json.loads(text)


def open_checkpoint(
    directory: Path, body: dict[str, Any], name: str
) -> AbstractContextManager[Mapping[str, np.ndarray]]:
    """One named set of arrays."""
    return open_arrays(directory, FileRecord(**body["files"][name]))


def segment_records(body: dict[str, Any]) -> list[FileRecord]:
    """The segment files that a checkpoint needs beside its own folder."""
    files = [file for _, _, _, file in body["store"]["segments"]]
    return [FileRecord(**file) for file in files if file is not None]


def verify_checkpoint(directory: Path, body: dict[str, Any], archive: Archive | None) -> None:
    """Raise CorruptReplay unless every file that the checkpoint needs is what was written."""
    for record in body["files"].values():
        verify(directory, FileRecord(**record))
    segments = segment_records(body)
    if archive is None:
        if segments:
            raise UserError(
                f"the replay of {directory} keeps its segments in a folder of its own; "
                "resume inside the run it belongs to"
            )
        return
    for record in segments:
        archive.verify(record)


def save_store(store: Store) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The store's JSON values, and the arrays of all rows that are in no segment file."""
    segments = [
        [s.first, s.rows, s.born, asdict(s.file) if s.file else None]
        for s in store.segments.values()
    ]
    arrays = {
        f"{segment.first}.{name}": values
        for segment in store.segments.values()
        if segment.file is None
        for name, values in store.storage.arrays(segment).items()
    }
    state = {"next_id": store.next_id.tolist(), "clock": store.clock, "segments": segments}
    return state, arrays


def load_store(
    store: Store, saved: dict[str, Any], rows: Mapping[str, np.ndarray], archive: Archive | None
) -> None:
    """Inverse of `save_store`, over whatever the store held."""
    store.clear()
    store.next_id[:] = saved["next_id"]
    store.clock = saved["clock"]
    for first, count, born, file in saved["segments"]:
        segment = store.adopt(first, count, born, FileRecord(**file) if file else None)
        if segment.file is None:
            store.storage.load(segment, Prefixed(rows, f"{first}."))
        elif archive is not None:
            with archive.open(segment.file) as arrays:
                store.storage.load(segment, arrays)
