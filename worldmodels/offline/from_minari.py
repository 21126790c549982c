"""Minari data sets, read from disk; nothing is ever fetched."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.envs.spec import ObsSpec
from worldmodels.errors import UserError
from worldmodels.offline import checks
from worldmodels.offline.dataset import EXTRA, References
from worldmodels.offline.place import Place
from worldmodels.offline.reader import Reader, Transitions
from worldmodels.replay.recorded import Recorded

OURS = "worldmodels"
"""The key of metadata.json under which our own data sets say more than Minari asks."""
MARKERS = ("is_terminal", "obs_valid", "task")
"""What infos of our own data sets hold, an entry per row."""


class Minari:
    """The folder `data` of a Minari data set."""

    kind = "minari"

    def __init__(self, folder: Path, image_size: int):
        self.path = folder.parent if folder.name == "data" else folder
        self._folder = folder
        self._data = folder / "main_data.hdf5"
        told = self._metadata()
        self.name = str(told.get("dataset_id") or self.path.name)
        ours = told.get(OURS)
        self._ours: Mapping[str, Any] = ours if isinstance(ours, Mapping) else {}
        self.environment: dict[str, Any] | None = self._ours.get("environment")
        self.references = References(
            self._number(told, "ref_min_score", None), self._number(told, "ref_max_score", None)
        )
        checks.is_scale(Place(self._data, 0), self.references.low, self.references.high)
        self._storage = self._open()
        self._episodes = int(self._number(told, "total_episodes", 0) or 0)
        self.rows = int(self._number(told, "total_steps", 0) or 0) + self._episodes
        if self._episodes < 1:
            raise self._fault("it has no episodes")
        self._reader = Reader(
            self._storage.observation_space,
            self._storage.action_space,
            str(self.path),
            image_size,
            self._layout(self._storage.observation_space),
        )
        self.obs, self.action = self._reader.obs, self._reader.action

    def files(self) -> list[Path]:
        """Metadata and data."""
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def read(self) -> Iterator[Recorded]:
        """Episodes in the order of their numbers; one at a time is in memory."""
        count = 0
        stored = iter(self._storage.get_episodes(range(self._episodes)))
        for number in range(self._episodes):
            place = Place(self._data, number)
            try:
                found = next(stored)
            except Exception as error:  # whatever a damaged file makes of h5py and Minari
                why = " ".join(str(error).split()) or type(error).__name__
                raise place.fault(0, f"the episode cannot be read ({why})") from error
            rows = self._reader.rows(_transitions(found, bool(self._ours)), place)
            count += len(rows)
            if count > self.rows or (number == self._episodes - 1 and count < self.rows):
                steps = count - number - 1
                raise place.fault(
                    len(rows) - 1,
                    f"metadata.json announces {self.rows - self._episodes} steps in "
                    f"{self._episodes} episodes, but up to here there are {steps}",
                )
            yield rows
        self._nothing_left()

    def _nothing_left(self) -> None:
        """A fault if the data go on behind what metadata.json announces."""
        try:
            next(iter(self._storage.get_episodes([self._episodes])))
        except Exception:  # each format has its own way to say that there is none
            return
        raise Place(self._data, self._episodes).fault(
            0, f"metadata.json announces {self._episodes} episodes, but there is another"
        )

    def _layout(self, space: spaces.Space) -> dict[str, ObsSpec] | None:
        """The specs of what our own data sets hold; it has to be what the spaces say."""
        told = self._ours.get("observations")
        if told is None:
            return None
        try:
            layout = {key: ObsSpec(tuple(shape), kind) for key, (shape, kind) in told.items()}
            held = (
                dict(space.spaces) if isinstance(space, spaces.Dict) else {next(iter(told)): space}
            )
            right = held.keys() == layout.keys() and all(
                (space.shape, space.dtype) == (layout[key].shape, stored_type(layout[key]))
                for key, space in held.items()
            )
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
            right, layout = False, {}
        if not right:
            raise self._fault(f"its metadata.json says {told} of observations in {space}")
        return layout

    def _metadata(self) -> dict[str, Any]:
        path = self._folder / "metadata.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._fault(f"its metadata.json cannot be read ({error})") from error
        if not isinstance(told, dict):
            raise self._fault("its metadata.json holds no names and values")
        return told

    def _number(self, told: Mapping[str, Any], name: str, default: float | None) -> float | None:
        value = told.get(name, default)
        if value is not None and not (isinstance(value, int | float) and np.isfinite(value)):
            raise self._fault(f"its metadata.json says {name} is {value!r}, which is no number")
        return value

    def _open(self) -> Any:
        try:
            from minari.dataset.minari_storage import MinariStorage
        except ImportError as error:
            raise UserError(
                f"the data set {self.path} needs minari, which is not installed; run: {EXTRA}"
            ) from error
        try:
            return MinariStorage.read(self._folder)
        except ImportError as error:
            raise UserError(f"{self.path} needs another package ({error}); run: {EXTRA}") from error
        except Exception as error:  # whatever a damaged metadata.json makes of Minari
            why = " ".join(str(error).split()) or type(error).__name__
            raise self._fault(f"Minari cannot open it ({why})") from error

    def _fault(self, what: str) -> UserError:
        return Place(self._data, 0).fault(0, what)


def stored_type(spec: ObsSpec) -> np.dtype:
    """Boolean planes travel as bytes: Minari has no boolean boxes."""
    return np.dtype(np.uint8) if spec.dtype == np.bool_ else spec.dtype


def _transitions(found: Mapping[str, Any], ours: bool) -> Transitions:
    infos = found.get("infos") or {}
    return Transitions(
        found["observations"],
        found["actions"],
        found["rewards"],
        found["terminations"],
        found["truncations"],
        {name: infos[name] for name in MARKERS if name in infos} if ours else {},
    )
