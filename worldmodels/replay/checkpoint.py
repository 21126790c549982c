"""The replay's part of a checkpoint folder: `replay.json` and the array files that it names.

Sealed segments stay where they are and are listed; rows that are in no segment file yet, and the
carry, which changes with every update, are written into the checkpoint itself.
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
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
from worldmodels.replay.segment import Segment
from worldmodels.replay.store import Store

NAME = "replay.json"
NAMED = 3
"""Files that a note lists by name."""


@dataclass(frozen=True)
class Restored:
    """How the replay differs from the one whose rows are on disk."""

    later: int
    """Rows that had arrived after the checkpoint, and are gone."""
    lost: int
    """Rows of segments whose files are damaged or missing."""
    notes: tuple[str, ...]
    """A sentence for each of the two."""

    @staticmethod
    def after(later: int, dropped: Sequence[Segment]) -> "Restored":
        """`dropped`: the segments with damaged files."""
        notes = []
        lost = sum(segment.rows for segment in dropped)
        if dropped:
            names = [segment.file.name for segment in dropped[:NAMED] if segment.file]
            more = [f"{len(dropped) - NAMED} more"] if len(dropped) > NAMED else []
            notes.append(
                f"WARNING: {lost} rows of the replay are lost, because these segment files are "
                f"damaged or missing: {', '.join([*names, *more])}; the run goes on without them, "
                "and is no longer bit for bit the one that was never interrupted"
            )
        if later:
            notes.append(f"{later} rows had arrived after that checkpoint; they are collected anew")
        return Restored(later, lost, tuple(notes))


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


def check_identity(directory: Path, body: dict[str, Any], mine: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another kind of replay."""
    for name, value in mine.items():
        theirs = body["identity"].get(name)
        if theirs != value:
            raise UserError(
                f"the replay of {directory} was written with {name} {theirs}, this run has "
                f"{value}; resume with the same setting or start a new run"
            )


def verify_checkpoint(
    directory: Path, body: dict[str, Any], archive: Archive | None, drop_damaged: bool = False
) -> list[int]:
    """Raise CorruptReplay unless every file that the checkpoint needs is what was written.

    With `drop_damaged` segment files may be damaged or missing: returns the first ids of these
    segments. Not all of them: that is what a folder in the wrong place looks like.
    """
    for record in body["files"].values():
        verify(directory, FileRecord(**record))
    needed = len(segment_records(body))
    if archive is None:
        if needed:
            raise UserError(
                f"the replay of {directory} keeps its segments in a folder of its own; "
                "resume inside the run it belongs to"
            )
        return []
    damaged = []
    for first, _, _, file in body["store"]["segments"]:
        try:
            if file is not None:
                archive.verify(FileRecord(**file))
        except CorruptReplay:
            if not drop_damaged:
                raise
            damaged.append(first)
    if damaged and len(damaged) == needed:
        raise CorruptReplay(
            f"all {needed} segment files of {archive.folder} that {directory} needs are damaged or "
            "missing; put the folder back, or start a new run"
        )
    return damaged


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
    store: Store,
    saved: dict[str, Any],
    rows: Mapping[str, np.ndarray],
    archive: Archive | None,
    damaged: Collection[int],
) -> None:
    """Inverse of `save_store`, over whatever the store held.

    The segments that begin at `damaged` rows are registered, but not read.
    """
    store.clear()
    store.next_id[:] = saved["next_id"]
    store.clock = saved["clock"]
    for first, count, born, file in saved["segments"]:
        segment = store.adopt(first, count, born, FileRecord(**file) if file else None)
        if segment.file is None:
            store.storage.load(segment, Prefixed(rows, f"{first}."))
        elif archive is not None and first not in damaged:
            with archive.open(segment.file) as arrays:
                store.storage.load(segment, arrays)
