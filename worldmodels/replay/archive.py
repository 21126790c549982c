"""The folder of sealed segments: each written once, deleted only when asked."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from worldmodels.files import unwritable
from worldmodels.replay.files import FileRecord, open_arrays, verify, write_arrays
from worldmodels.replay.store import LANE_SHIFT, Segment, Store


class Archive:
    """Immutable segment files. Evicting a segment leaves its file: checkpoints may refer to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable("replay", folder, error) from error

    def seal(self, store: Store) -> None:
        """Write every closed segment that has no file yet."""
        for segment in list(store.unsaved.values()):
            segment.file = write_arrays(
                self.folder, _stem(segment), segment.filled(store.row_columns)
            )
            del store.unsaved[segment.first]

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
        for path in doomed:
            path.unlink(missing_ok=True)
        return doomed


def _stem(segment: Segment) -> str:
    lane, position = segment.first >> LANE_SHIFT, segment.first & ((1 << LANE_SHIFT) - 1)
    return f"segment_{lane:03d}_{position:012d}"
