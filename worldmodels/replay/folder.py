"""A run's replay on disk, read without the run: what is there, whether it is whole, its episodes.

Letters: k actions of an episode, which make k + 1 rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodels.errors import UserError
from worldmodels.replay.archive import Archive
from worldmodels.replay.checkpoint import open_checkpoint, read_checkpoint, verify_checkpoint
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.journal import Journal, Tail
from worldmodels.replay.manifest import LAYOUT, MANIFEST, Entry, damaged_lines, read_layout
from worldmodels.replay.rows import FLAGS, Rollout, RowLayout
from worldmodels.replay.storage import Arrays


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one lane that are in one file."""

    first: int
    """Id of the first row."""
    rows: int
    bytes: int
    """On disk."""
    rollout: Rollout


@dataclass(frozen=True)
class Episode:
    """A whole episode: k + 1 observations, k actions and rewards."""

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    """Else truncated."""
    task: int


class ReplayFolder:
    """The folder `replay` of a run, as the last process left it. Nothing is changed."""

    def __init__(self, run: Path):
        self.path = run / "replay"
        self.checkpoints = sorted((run / "checkpoints").glob("step_*/replay"))
        try:
            known = read_layout(self.path)
            self.layout, self.lanes = RowLayout.from_json(known), int(known["lanes"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{run} has no replay that can be read ({self.path / LAYOUT} is missing or "
                "damaged); name the folder of a run that has collected rows"
            ) from error
        self._archive = Archive(self.path)
        journal = Journal(self.path, self.layout.columns, self.lanes)
        found = journal.read()
        self.entries: list[Entry] = found.entries
        """Segments that have a file."""
        sealed = {entry.first for entry in found.entries}
        self.tails: list[Tail] = [tail for tail in found.tails if tail.first not in sealed]
        """Rows of segments that were open."""
        self.row_bytes = journal.row_bytes

    def pieces(self) -> Iterator[Piece]:
        """All rows, in the order of their ids."""
        for one in sorted([*self.entries, *self.tails], key=lambda one: one.first):
            if isinstance(one, Tail):
                rollout = self.layout.rollout(lambda one=one: one.columns)
                yield Piece(one.first, one.rows, one.rows * self.row_bytes, rollout)
            else:
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
        whole = {tail.path.name: tail.rows * self.row_bytes for tail in self.tails}
        for path in sorted(self.path.glob("tail_*.rows")):
            beyond = path.stat().st_size - whole.get(path.name, path.stat().st_size)
            yield path.name, f"its last {beyond} bytes are torn or damaged" if beyond else ""

    def held(self) -> dict[str, set[int]]:
        """Part of the retention -> first ids of its segments, at the last checkpoint."""
        if not self.checkpoints:
            return {}
        directory = self.checkpoints[-1]
        with open_checkpoint(directory, read_checkpoint(directory), "retention") as saved:
            names = [name for name in saved if name.endswith("segments")]
            return {name.rpartition("/")[0] or "kept": set(saved[name].tolist()) for name in names}

    def episodes(self) -> Iterator[Episode]:
        """Every episode whose rows are all there, lane by lane."""
        parts: list[Arrays] = []
        """Of the episode that goes on, from its first row; empty where that is not there."""
        expected = -1
        for piece in self.pieces():
            if piece.first != expected:
                parts = []
            expected = piece.first + piece.rows
            rows = _fields(piece.rollout)
            begin = 0
            for end in [*(np.flatnonzero(rows["is_last"]) + 1).tolist(), piece.rows]:
                part = {name: values[begin:end] for name, values in rows.items()}
                if end > begin and (parts or part["is_first"][0]):
                    parts.append(part)
                if parts and parts[-1]["is_last"][-1]:
                    yield _episode(parts)
                    parts = []
                begin = end


def _fields(rollout: Rollout) -> Arrays:
    """Everything of a rollout's rows, by name."""
    fields = {name: getattr(rollout, name) for name in ("reward", "prev_action", "task")}
    flags = {name: rollout.flag(name) for name in FLAGS}
    return {**fields, **flags, **{f"obs.{key}": value for key, value in rollout.obs.items()}}


def _episode(parts: list[Arrays]) -> Episode:
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Episode(
        obs={k.removeprefix("obs."): v for k, v in rows.items() if k.startswith("obs.")},
        action=rows["prev_action"][1:],
        reward=rows["reward"][1:],
        terminated=bool(rows["is_terminal"][-1]),
        task=int(rows["task"][0]),
    )


def _complaint(check: Callable[[], None]) -> str:
    try:
        check()
    except CorruptReplay as error:
        return str(error)
    return ""
