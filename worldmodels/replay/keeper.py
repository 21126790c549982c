"""Rows come in, the retention decides what stays, and what stays is put on disk.

Letters: E environments (lanes), N rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.archive import Archive
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.journal import Journal, Tail
from worldmodels.replay.manifest import MANIFEST, Entry, damaged_lines, read_layout
from worldmodels.replay.retention import Retention
from worldmodels.replay.rows import RowLayout
from worldmodels.replay.segment import LANE_SHIFT, POSITION, Segment
from worldmodels.replay.store import Store


@dataclass(frozen=True)
class Recovered:
    """What `Replay.recover` found in a folder that a process left behind."""

    rows: int
    """Rows read back; the retention may have dropped some of them again."""
    lost: int
    """Rows that had begun to arrive and cannot be read back."""
    notes: tuple[str, ...]
    """A sentence for every file that is missing or damaged."""


class Keeper:
    """Store, retention, segment files and journal, kept in step.

    Files are written after the rows are in memory: where a write fails, the rows are there, and it
    is tried again with the next row.
    """

    def __init__(
        self, layout: RowLayout, store: Store, retention: Retention, folder: Path | None, seed: int
    ):
        self.store, self.retention = store, retention
        self._layout = layout
        self._known = {
            **layout.as_json(),
            "lanes": store.num_lanes,
            "rows per segment": store.segment_rows,
            "seed": seed,
        }
        """What a folder of rows must agree on with who recovers it."""
        self._archive = Archive(folder) if folder else None
        self._journal = Journal(folder, layout.columns, store.num_lanes) if folder else None
        self._unsealed: dict[int, Segment] = {}
        """Closed segments that have no file yet."""
        self._newest: list[Segment] = []
        """The segments that got the newest rows, by lane."""
        self._replaces = False
        """Whether the next write may replace what the folder describes."""

    @property
    def archive(self) -> Archive | None:
        """The folder of segments, if there is one."""
        return self._archive

    def append(self, values: Mapping[str, np.ndarray], lanes: Sequence[int]) -> np.ndarray:
        """One row per column [len(lanes), ...], in memory -> row ids int64 [len(lanes)]."""
        store = self.store
        self._begin_journal()
        self._drop(self.retention.make_room(len(lanes), store.opening(lanes)))
        ids = store.next_id[lanes]
        if self._journal:
            self._journal.arriving(ids, lanes, self._unsealed.values())
        segments = store.append(values, lanes)
        for segment in segments:
            self.retention.arrived(segment, 1)
        for segment in segments:
            if not segment.open:
                self._closed(segment)
        self._newest = segments
        return ids

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Hand the rows that `append` took to the system, and seal what closed with them."""
        if self._journal is None:
            return
        for lane, segment in enumerate(self._newest):
            if segment.first not in self.store.segments:
                continue
            written = self._journal.written(segment)
            if written == segment.rows - 1:
                newest = {name: value[lane : lane + 1] for name, value in values.items()}
            else:  # a write failed before
                newest = self.store.storage.arrays(segment, written)
            self._journal.append(segment, newest)
        self.seal()

    def cut(self, lane: int) -> None:
        """End the lane's segment: no window crosses this moment."""
        self._begin_journal()
        segment = self.store.cut(lane)
        if segment:
            self._closed(segment)
        self.seal()

    def seal(self) -> None:
        """Write every closed segment that has no file yet."""
        if self._archive is None or self._journal is None:
            return
        if self._unsealed:
            self._begin_journal()
        for segment in list(self._unsealed.values()):
            segment.file = self._archive.write(segment, self.store.arrays(segment))
            try:
                self._journal.sealed(segment)
            except UserError:
                segment.file = None
                raise
            self.store.storage.sealed(segment)
            del self._unsealed[segment.first]

    def clear(self) -> None:
        """Forget all rows, in memory and on disk."""
        self.retention.load({}, {})
        self.store.clear()
        self._restart_journal()

    def restored(self) -> int:
        """The store holds the rows of a checkpoint now.

        Returns how many rows of the folder had arrived after those. The folder stays as it is
        until the next row comes.
        """
        if self._journal is None:
            return 0
        found = self._journal.read()
        ends = [(one.first, one.first + one.rows) for one in (*found.entries, *found.tails)]
        segments = self.store.segments.values()
        self._unsealed = {s.first: s for s in segments if not s.open and s.file is None}
        self._journal.close()
        self._replaces = True
        next_id = self.store.next_id.tolist()
        return sum(max(end - max(first, next_id[first >> LANE_SHIFT]), 0) for first, end in ends)

    def lose(self, firsts: Iterable[int]) -> list[Segment]:
        """Evict the segments that begin at these rows, whoever keeps them, and return them."""
        lost = [self.store.segments[first] for first in firsts]
        for segment in lost:
            if self.retention.holds(segment):
                self.retention.lose(segment)
            self.store.evict(segment)
        return lost

    def recover(self) -> Recovered:
        """Take up all that the folder holds: segment files, then the rows of open segments.

        Every segment is offered to the retention again, in the order in which it was begun.
        """
        if self._journal is None:
            raise UserError("this replay keeps nothing on disk, so there is nothing to recover")
        self._check_known()
        notes = self._complaints()
        found = self._journal.read()
        self.retention.load({}, {})
        self.store.clear()
        self._unsealed.clear()
        sealed = {entry.first for entry in found.entries}
        left = [*found.entries, *(tail for tail in found.tails if tail.first not in sealed)]
        left.sort(key=lambda one: (one.born, one.first))
        self._skip_ids([one.first + one.rows - 1 for one in left], found.arrivals.last)
        rows = 0
        for one in left:
            try:
                self._adopt(one)
            except CorruptReplay as error:
                notes.append(str(error))
                continue
            rows += one.rows
        lost = int((found.missing(self.store.segment_rows) + found.arrivals.behind).sum())
        self.store.clock = max((one.born + one.rows for one in left), default=0)
        lost += sum(one.rows for one in left) - rows
        self._restart_journal()
        self.seal()
        return Recovered(rows, lost, tuple(notes))

    def close(self) -> None:
        """Let go of every file."""
        if self._journal:
            self._journal.close()
        self.store.storage.close()

    def collect_garbage(self, needed: Iterable[str]) -> list[Path]:
        """Delete the segment files that are neither resident nor among `needed`."""
        if self._archive is None:
            return []
        if self._replaces:
            self._begin_journal()
        if self._journal and self._journal.begun:
            self._journal.shorten(list(self.store.segments.values()))
        mine = {s.file.name for s in self.store.segments.values() if s.file is not None}
        return self._archive.keep_only(mine | set(needed))

    def _begin_journal(self) -> None:
        """Before the first write: a replay that was not restored needs an empty folder."""
        if self._journal is None or self._archive is None or self._journal.begun:
            return
        found = self._journal.read()
        if not self._replaces and (found.entries or found.tails):
            raise UserError(
                f"{self._archive.folder} holds rows of another process; call recover() to go on "
                "with them, restore(checkpoint), or clear() to begin anew"
            )
        self._restart_journal()

    def _restart_journal(self) -> None:
        """Let the journal describe what is resident now, and nothing else."""
        if self._journal is None:
            return
        segments = list(self.store.segments.values())
        self._unsealed = {s.first: s for s in segments if not s.open and s.file is None}
        self._journal.describe(self._known)
        self._journal.begin(segments, self.store.next_id, self.store.arrays)

    def _check_known(self) -> None:
        """Refuse rows that another kind of replay wrote."""
        assert self._archive is not None
        theirs = read_layout(self._archive.folder)
        for name, mine in self._known.items():
            if theirs and theirs.get(name) != mine:
                raise UserError(
                    f"the rows in {self._archive.folder} were written with {name} "
                    f"{theirs.get(name)}, this replay has {mine}; recover them with the same"
                )

    def _complaints(self) -> list[str]:
        """What a damaged manifest hides."""
        assert self._archive is not None
        lines = damaged_lines(self._archive.folder)
        name = self._archive.folder / MANIFEST
        if not name.is_file() and (files := len(list(name.parent.glob("segment_*.npz")))):
            raise CorruptReplay(
                f"{name} is missing, without which {files} segment files cannot be taken up; "
                "restore a checkpoint instead, or put it back"
            )
        return [f"{name} is damaged: {lines} segment files cannot be found"] if lines else []

    def _closed(self, segment: Segment) -> None:
        rollout = self._layout.rollout(lambda: self.store.arrays(segment))
        if segment.file is None and self._archive is not None:
            self._unsealed[segment.first] = segment
        self._drop(self.retention.closed(segment, rollout))
        if not self.retention.holds(segment):
            self._drop([segment])

    def _drop(self, segments: Iterable[Segment]) -> None:
        """Forget segments that nobody keeps; one that is open is offered to the others first."""
        for segment in segments:
            if segment.open:
                self.store.cut(segment.lane)
                self._closed(segment)
            if segment.first in self.store.segments and not self.retention.holds(segment):
                self._unsealed.pop(segment.first, None)
                self.store.evict(segment)
                if self._journal:
                    self._journal.dropped(segment)

    def _adopt(self, one: Entry | Tail) -> None:
        """Take up a segment that was found on disk, as if its rows had just arrived."""
        assert self._archive is not None
        store = self.store
        self._drop(self.retention.make_room(one.rows, 1))
        if isinstance(one, Entry):
            self._archive.verify(one.file)
            segment = store.adopt(one.first, one.rows, one.born, one.file)
            with self._archive.open(one.file) as arrays:
                store.storage.load(segment, arrays)
        else:
            segment = store.adopt(one.first, one.rows, one.born, None)
            store.storage.load(segment, one.columns)
        self.retention.arrived(segment, segment.rows)
        self._closed(segment)

    def _skip_ids(self, last: Sequence[int], arrived: np.ndarray) -> None:
        """Let every lane go on behind all ids that were ever given, in a segment of its own."""
        size = self.store.segment_rows
        for lane in range(self.store.num_lanes):
            given = [row for row in [*last, int(arrived[lane])] if row >> LANE_SHIFT == lane]
            if given:
                position = max(given) & POSITION
                self.store.next_id[lane] = (lane << LANE_SHIFT) + (position // size + 2) * size
