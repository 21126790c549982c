"""The folder of sealed segments: each written once, deleted only when asked."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from worldmodels.files import unwritable
from worldmodels.replay.files import FileRecord, open_arrays, verify, write_arrays
from worldmodels.replay.segment import POSITION, Segment


class Archive:
    """Immutable segment files. Evicting a segment leaves its file: checkpoints may refer to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable("replay", folder, error) from error

    def write(self, segment: Segment, arrays: Mapping[str, np.ndarray]) -> FileRecord:
        """Durably write a closed segment."""
        stem = f"segment_{segment.lane:03d}_{segment.first & POSITION:012d}"
        return write_arrays(self.folder, stem, arrays)

    def verify(self, record: FileRecord) -> None:
        """Raise CorruptReplay unless the file is what was written."""
        verify(self.folder, record)

    def open(self, record: FileRecord) -> AbstractContextManager[Mapping[str, np.ndarray]]:
        """The row columns of a segment."""
        return open_arrays(self.folder, record)

    def keep_only(self, names: Iterable[str]) -> list[Path]:
        """Delete every segment file that is not among `names`; returns what was deleted."""
        kept = set(names)
        doomed = [path for path in self.folder.glob("segment_*.npz") if path.name not in kept]
        for path in [*doomed, *self.folder.glob(".segment_*.tmp")]:  # half written by a killed one
            path.unlink(missing_ok=True)
        return doomed
