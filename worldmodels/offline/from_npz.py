"""Plain .npz files as a data set; docs/offline.md lists the keys.

A file holds one episode, or several end to end with their numbers of actions in `lengths`. Columns
are read as streams, an episode at a time, also from compressed files.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from gymnasium import spaces

from worldmodels.errors import UserError, near
from worldmodels.offline import checks
from worldmodels.offline.dataset import References
from worldmodels.offline.place import Place
from worldmodels.offline.reader import Reader, Transitions
from worldmodels.replay.recorded import Recorded

COLUMNS = ("actions", "rewards", "terminations", "truncations")
"""Required, an entry per action; the observations have one more."""
OPTIONS = ("lengths", "num_actions", "action_low", "action_high", "ref_min_score", "ref_max_score")


class NpzFiles:
    """All files of one data set; the first says what the others must hold too."""

    kind = "npz"

    def __init__(self, path: Path, files: Sequence[Path], image_size: int):
        self.path, self.name, self._files = path, path.name, list(files)
        heads = [_Head(file) for file in self._files]
        first = heads[0]
        for head in heads[1:]:
            if head.form != first.form:
                raise Place(head.file, 0).fault(
                    0, f"it holds {head.form}, while {first.file} holds {first.form}"
                )
        self._reader = Reader(first.observation, first.action, str(path), image_size)
        self.obs, self.action = self._reader.obs, self._reader.action
        self.rows = sum(head.actions + len(head.lengths) for head in heads)
        self.references = first.references
        self.environment: dict[str, Any] | None = None
        self._heads = heads

    def files(self) -> list[Path]:
        """The .npz files."""
        return self._files

    def read(self) -> Iterator[Recorded]:
        """Episodes in the order of the files' names."""
        for head in self._heads:
            yield from self._episodes(head)

    def _episodes(self, head: "_Head") -> Iterator[Recorded]:
        with ExitStack() as stack:
            with _readable(Place(head.file, 0), 0):
                archive = stack.enter_context(ZipFile(head.file))
                columns = {name: _Column(archive, name) for name in head.columns}
            several = len(head.lengths) > 1
            for number, count in enumerate(head.lengths):
                place = Place(head.file, number)
                with _readable(place, 0):
                    taken = {
                        name: column.take(count + (name not in COLUMNS) if several else None)
                        for name, column in columns.items()
                    }
                yield self._reader.rows(_transitions(taken), place)
            place = Place(head.file, len(head.lengths) - 1)
            with _readable(place, 0):
                for name, column in columns.items():
                    if left := column.rest():
                        raise place.fault(
                            head.lengths[-1] + 1, f"{name} goes on for {left} more than lengths say"
                        )


class _Head:
    """What a file says of itself before its columns are read."""

    def __init__(self, file: Path):
        self.file = file
        place = Place(file, 0)
        with _readable(place, 0), ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            seen = [name for name in names if name.partition(".")[0] == "observations"]
            self.columns = [*COLUMNS, *seen]
            _check_keys(place, names, seen)
            shapes = {name: _Column(archive, name) for name in self.columns}
            with np.load(file, allow_pickle=False) as arrays:
                self._options = {name: arrays[name] for name in OPTIONS if name in names}
        for name, column in shapes.items():
            if column.dtype.kind not in "biuf" or not column.shape:
                raise place.fault(0, f"{name} is {column.dtype} of shape {column.shape}")
        self.actions = shapes["actions"].shape[0]
        self.lengths = self._lengths(place)
        self.observation = _observation_space({name: shapes[name] for name in seen})
        with _readable(place, 0):  # bounds of another shape
            self.action = self._action_space(place, shapes["actions"])
        self.references = References(*(self._number(name, place) for name in OPTIONS[4:]))
        checks.is_scale(place, self.references.low, self.references.high)

    @property
    def form(self) -> str:
        """What all files of a data set agree on."""
        return f"observations {self.observation}, actions {self.action} and {self.references}"

    def _lengths(self, place: Place) -> list[int]:
        lengths = self._options.get("lengths", np.array([self.actions]))
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            raise place.fault(0, f"lengths is {lengths.dtype} of shape {lengths.shape}")
        if not len(lengths):
            raise place.fault(0, "the file has no episode: lengths is empty")
        for number, count in enumerate(lengths.tolist()):
            if count < 1:
                raise Place(self.file, number).fault(
                    0, f"the episode is empty: its length is {count}"
                )
        if lengths.sum() != self.actions:
            raise Place(self.file, len(lengths) - 1).fault(
                0, f"lengths add up to {lengths.sum()}, but there are {self.actions} actions"
            )
        return lengths.tolist()

    def _action_space(self, place: Place, column: "_Column") -> spaces.Space:
        shape = column.shape[1:]
        if "num_actions" in self._options:
            count = self._number("num_actions", place) or 0
            if count < 1 or count != int(count):
                raise place.fault(0, f"num_actions is {count}, not a whole number from 1 up")
            return spaces.Discrete(int(count))
        if column.dtype.kind != "f":
            raise place.fault(0, f"actions is {column.dtype}, but num_actions is missing")
        bounds = ("action_low", "action_high")
        for name in bounds:
            if name not in self._options:
                raise place.fault(0, f"actions is {column.dtype}, but {name} is missing")
        low, high = (
            np.broadcast_to(self._options[name], shape).astype(np.float64) for name in bounds
        )
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise place.fault(0, f"action_low {low} and action_high {high} are no bounds")
        return spaces.Box(low.astype(column.dtype), high.astype(column.dtype), shape, column.type)

    def _number(self, name: str, place: Place) -> float | None:
        if name not in self._options:
            return None
        value = self._options[name]
        if value.shape != () or value.dtype.kind not in "iuf" or not np.isfinite(value):
            raise place.fault(0, f"{name} is {value!r}, not one finite number")
        return float(value)


class _Column:
    """One array of an open .npz, read from its start to its end."""

    def __init__(self, archive: ZipFile, name: str):
        self._stream = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._stream)
        read = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        self.shape, self._by_columns, self.dtype = read(self._stream)
        self._done = 0
        self._whole: np.ndarray | None = None

    @property
    def type(self) -> Any:
        """The dtype's class, in this machine's byte order."""
        return self.dtype.type

    def take(self, count: int | None) -> np.ndarray:
        """The next `count` rows, fewer at the end; None: all that are left."""
        left = self.shape[0] - self._done
        count = left if count is None else min(count, left)
        begin, self._done = self._done, self._done + count
        if not self._by_columns or len(self.shape) < 2:
            return self._bytes((count, *self.shape[1:])).reshape((count, *self.shape[1:]))
        if self._whole is None:  # stored by columns: no row is in one piece
            self._whole = self._bytes(self.shape).reshape(self.shape, order="F")
        return self._whole[begin : begin + count]

    def rest(self) -> int:
        """Rows that nobody took; behind the last one the archive compares its checksum."""
        left = self.shape[0] - self._done
        if not left and self._stream.read(1):
            raise ValueError("a column goes on behind its last row")
        return left

    def _bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError(f"it ends {size - len(data)} bytes early")
        native = self.dtype.newbyteorder("=")
        return np.frombuffer(data, self.dtype).astype(native)


def _check_keys(place: Place, names: list[str], seen: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    missing += [] if seen else ["observations"]
    known = {*COLUMNS, *OPTIONS, *seen}
    unknown = [name for name in names if name not in known]
    if missing:
        raise place.fault(0, f"the key {missing[0]} is missing; it has {', '.join(names)}")
    if unknown:
        raise place.fault(0, f"the key {unknown[0]} is unknown{near(unknown[0], known)}")
    if "observations" in seen and len(seen) > 1:
        raise place.fault(0, f"the key observations excludes {', '.join(seen[1:])}")


def _observation_space(columns: dict[str, _Column]) -> spaces.Space:
    """The space of one column, or the Dict of several."""
    if "observations" in columns:
        return _space(columns["observations"])
    named = {name.partition(".")[2]: _space(column) for name, column in columns.items()}
    return spaces.Dict(named)


def _space(column: _Column) -> spaces.Space:
    shape = column.shape[1:]
    if column.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, column.type)
    if column.dtype.kind == "b":
        return spaces.Box(0, 1, shape, bool)  # type: ignore[arg-type]
    limits = np.iinfo(column.type)
    return spaces.Box(limits.min, limits.max, shape, column.type)


def _transitions(taken: dict[str, np.ndarray]) -> Transitions:
    observations: Any = taken.get("observations")
    if observations is None:
        observations = {
            name.partition(".")[2]: values
            for name, values in taken.items()
            if name.startswith("observations.")
        }
    actions, rewards, terminations, truncations = (taken[name] for name in COLUMNS)
    return Transitions(observations, actions, rewards, terminations, truncations)


@contextmanager
def _readable(place: Place, row: int) -> Iterator[None]:
    """Turn whatever a damaged file raises into its sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of zipfile and numpy
        raise place.fault(row, f"the file cannot be read from here on ({error})") from error
