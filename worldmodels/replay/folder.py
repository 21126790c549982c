"""A run's replay on disk, read without the run: what is there, and whether it is whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.archive import Archive
from worldmodels.replay.arrivals import ARRIVED
from worldmodels.replay.checkpoint import open_checkpoint, read_checkpoint, verify_checkpoint
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.journal import Journal, Tail, tail_name
from worldmodels.replay.manifest import (
    LAYOUT,
    MANIFEST,
    Entry,
    damaged_lines,
    generation,
    read_layout,
)
from worldmodels.replay.recorded import Recorded
from worldmodels.replay.rows import FLAGS, Rollout, RowLayout


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one lane that are in one file."""

    first: int
    """Id of the first row."""
    rows: int
    bytes: int
    """On disk."""
    rollout: Rollout


class ReplayFolder:
    """The folder `replay` of a run, as the last process left it. Nothing is changed."""

    def __init__(self, run: Path):
        self.path = run / "replay"
        self.checkpoints = sorted((run / "checkpoints").glob("step_*/replay"))
        try:
            known = read_layout(self.path)
            self.layout, self.lanes = RowLayout.from_json(known), int(known["lanes"])
            self._segment_rows = int(known["rows per segment"])
            discrete = self.layout.spec.action.kind == "discrete"
            self._action = np.int64 if discrete else np.float32
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{run} has no replay that can be read ({self.path / LAYOUT} is missing or "
                "damaged); name the folder of a run that has collected rows"
            ) from error
        self._archive = Archive(self.path)
        journal = Journal(self.path, self.layout.columns, self.lanes)
        self._found = found = journal.read()
        self.entries: list[Entry] = found.entries
        """Segments that have a file."""
        sealed = {entry.first for entry in found.entries}
        self.tails: list[Tail] = [tail for tail in found.tails if tail.first not in sealed]
        """Rows of segments that were open."""
        self.row_bytes = journal.row_bytes

    def pieces(self, verify: bool = False) -> Iterator[Piece]:
        """All rows, in the order of their ids; with `verify` checksums are compared."""
        for one in sorted([*self.entries, *self.tails], key=lambda one: one.first):
            if isinstance(one, Tail):
                rollout = self.layout.rollout(lambda one=one: one.columns)
                yield Piece(one.first, one.rows, one.rows * self.row_bytes, rollout)
            else:
                if verify:
                    self._archive.verify(one.file)
                with self._archive.open(one.file) as arrays:
                    rollout = self.layout.rollout(lambda arrays=arrays: arrays)
                    yield Piece(one.first, one.rows, one.file.size, rollout)

    def verify(self) -> Iterator[tuple[str, str]]:
        """(what, what is wrong with it or an empty text) for every file that somebody needs."""
        for entry in self.entries:
            yield entry.file.name, _complaint(lambda entry=entry: self._archive.verify(entry.file))
        for directory in self.checkpoints:
            name = f"checkpoint {directory.parent.name}"

            def check(directory: Path = directory) -> None:
                verify_checkpoint(directory, read_checkpoint(directory), self._archive)

            yield name, _complaint(check)
        lines = damaged_lines(self.path)
        missing = "" if (self.path / MANIFEST).is_file() else "it is missing"
        yield MANIFEST, f"{lines} of its lines are damaged" if lines else missing
        yield from self._tails()
        behind = int(self._found.arrivals.behind.sum())
        unknown = "" if (self.path / ARRIVED).is_file() else "it is missing"
        yield ARRIVED, f"{behind} rows could not be written and are gone" if behind else unknown

    def _tails(self) -> Iterator[tuple[str, str]]:
        """Tails that are torn, or lack rows that had arrived; the row in flight is no damage."""
        size, number = self._segment_rows, generation(self.path)
        lacking = zip(
            self._found.arrivals.begun(size).tolist(),
            (self._found.missing(size) - 1).tolist(),
            strict=True,
        )
        gone = {tail_name(number, first): rows for first, rows in lacking if rows > 0}
        whole = {tail.path.name: tail.rows * self.row_bytes for tail in self.tails}
        there = {path.name: path.stat().st_size for path in self.path.glob("tail_*.rows")}
        for name in sorted({*gone, *there}):
            beyond = there.get(name, 0) - whole.get(name, there.get(name, 0))
            if name not in there:
                yield name, f"it is missing, and {gone[name]} rows with it"
            elif beyond:
                yield name, f"its last {beyond} bytes are torn or damaged"
            else:
                yield name, f"its last {gone[name]} rows are missing" if name in gone else ""

    def held(self) -> dict[str, set[int]]:
        """Part of the retention -> first ids of its segments, at the last checkpoint."""
        if not self.checkpoints:
            return {}
        directory = self.checkpoints[-1]
        with open_checkpoint(directory, read_checkpoint(directory), "retention") as saved:
            names = [name for name in saved if name.endswith("segments")]
            return {name.rpartition("/")[0] or "kept": set(saved[name].tolist()) for name in names}

    def recorded(self, verify: bool = False) -> Iterator[Recorded]:
        """The rows of every piece; with `verify` a damaged file is an error, not a surprise."""
        for piece in self.pieces(verify):
            rollout = piece.rollout
            flags = {name: np.array(rollout.flag(name)) for name in FLAGS}
            yield Recorded(
                obs={key: np.array(values) for key, values in rollout.obs.items()},
                prev_action=rollout.prev_action.astype(self._action),
                reward=np.array(rollout.reward),
                task=np.array(rollout.task),
                first=piece.first,
                **flags,
            )

    def episodes(self) -> Iterator[Recorded]:
        """Every episode whose rows are all there, lane by lane."""
        parts: list[Recorded] = []
        """Of the episode that goes on, from its first row; empty where that is not there."""
        expected = -1
        for rows in self.recorded():
            if rows.first != expected:
                parts = []
            expected = rows.first + len(rows)
            begin = 0
            for end in [*(np.flatnonzero(rows.is_last) + 1).tolist(), len(rows)]:
                part = rows[begin:end]
                if end > begin and (parts or part.is_first[0]):
                    parts.append(part)
                if parts and parts[-1].is_last[-1]:
                    yield Recorded.cat(parts)
                    parts = []
                begin = end


def _complaint(check: Callable[[], None]) -> str:
    try:
        check()
    except CorruptReplay as error:
        return str(error)
    return ""
