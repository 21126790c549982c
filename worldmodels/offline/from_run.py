"""The replay of one of our run folders as a data set: every row that it still holds."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.config_file import read_options
from worldmodels.errors import UserError
from worldmodels.offline.dataset import References
from worldmodels.replay.files import CorruptReplay
from worldmodels.replay.folder import ReplayFolder
from worldmodels.replay.manifest import damaged_lines
from worldmodels.replay.recorded import Recorded
from worldmodels.replay.segment import LANE_SHIFT, POSITION


class RunReplay:
    """Rows as they arrived, flags and all, lane by lane; also parts of episodes.

    The model state is cut where rows are missing: `first` ids tell.
    """

    kind = "run"

    def __init__(self, run: Path):
        self.path, self.name = run.resolve(), run.name
        self._replay = ReplayFolder(self.path)
        spec = self._replay.layout.spec
        self.obs, self.action = spec.obs, spec.action
        self.rows = sum(one.rows for one in (*self._replay.entries, *self._replay.tails))
        if lines := damaged_lines(self._replay.path):
            raise UserError(
                f"{self._replay.path} has a damaged manifest: {lines} of its segments cannot be "
                "found; name another run"
            )
        if not self.rows:
            raise UserError(f"{self._replay.path} holds no rows; name a run that collected some")
        self.references = References()
        self.environment: dict[str, Any] | None = read_options(run / "config.yaml").get("env")

    def files(self) -> list[Path]:
        """Segments, and tails of those that were open."""
        names = [entry.file.name for entry in self._replay.entries]
        return [
            *(self._replay.path / name for name in names),
            *(tail.path for tail in self._replay.tails),
        ]

    def read(self) -> Iterator[Recorded]:
        """One segment at a time, its checksum verified."""
        begun: Counter[int] = Counter()
        """Lane -> episodes that began in it."""
        try:
            for rows in self._replay.recorded(verify=True):
                lane = rows.first >> LANE_SHIFT
                self._check(rows, begun[lane])
                begun[lane] += int(rows.is_first.sum())
                yield rows
        except CorruptReplay as error:
            raise UserError(
                f"{error.what}, behind {begun.total()} sound episodes; nothing was trained: leave "
                "that run out"
            ) from error

    def _check(self, rows: Recorded, begun: int) -> None:
        """Rows are what arrived, and environments may give what nobody can learn from."""
        columns = {"reward": rows.reward, **rows.obs, "prev_action": rows.prev_action}
        for name, values in columns.items():
            if values.dtype.kind != "f":
                continue
            wrong = np.argwhere(~np.isfinite(values))
            if len(wrong):
                row = int(wrong[0, 0])
                lane, position = rows.first >> LANE_SHIFT, (rows.first & POSITION) + row
                episode = begun + int(rows.is_first[: row + 1].sum()) - 1
                raise UserError(
                    f"{self._replay.path}, lane {lane}, episode {episode}, row {position}: {name} "
                    f"is {values[tuple(wrong[0])]}; nothing was trained: leave that run out"
                )
