"""Minari data sets, read from disk; nothing is ever fetched."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldmodels.envs.spec import ObsSpec
from worldmodels.errors import UserError
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
        self._ours: Mapping[str, Any] = told.get(OURS) or {}
        self.environment: dict[str, Any] | None = self._ours.get("environment")
        self.references = References(told.get("ref_min_score"), told.get("ref_max_score"))
        self._storage = self._open()
        self._episodes = int(told.get("total_episodes", 0))
        self.rows = int(told.get("total_steps", 0)) + self._episodes
        if not self._episodes:
            raise self._fault("it has no episodes")
        layout = self._ours.get("observations")
        self._reader = Reader(
            self._storage.observation_space,
            self._storage.action_space,
            str(self.path),
            image_size,
            layout and {k: ObsSpec(tuple(shape), kind) for k, (shape, kind) in layout.items()},
        )
        self.obs, self.action = self._reader.obs, self._reader.action

    def files(self) -> list[Path]:
        """Metadata and data."""
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def read(self) -> Iterator[Recorded]:
        """Episodes in the order of their numbers; one at a time is in memory."""
        stored = iter(self._storage.get_episodes(range(self._episodes)))
        for number in range(self._episodes):
            place = Place(self._data, number)
            try:
                found = next(stored)
            except Exception as error:  # whatever a damaged file makes of h5py and Minari
                why = " ".join(str(error).split()) or type(error).__name__
                raise place.fault(0, f"the episode cannot be read ({why})") from error
            yield self._reader.rows(_transitions(found, bool(self._ours)), place)

    def _metadata(self) -> dict[str, Any]:
        path = self._folder / "metadata.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._fault(f"its metadata.json cannot be read ({error})") from error
        if not isinstance(told, dict):
            raise self._fault("its metadata.json holds no names and values")
        return told

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
