"""`dataset.json` in a run folder: which data set a run learned from, and what it had to know of it.

With it a run is resumed, evaluated and loaded where the data set, or its environment, is gone.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.files import unwritable, write_text
from worldmodels.offline.dataset import DataSet, References, fingerprint, spec_of
from worldmodels.replay.rows import RowLayout

NAME = "dataset.json"


@dataclass(frozen=True)
class Record:
    """The data set of a run."""

    path: str
    kind: str
    name: str
    """Minari's id, or the name on disk."""
    checksum: str
    rows: int
    episodes: int
    """Ends of episodes among the rows."""
    references: References
    environment: dict[str, Any] | None
    """Name and options of the environment that was recorded, where the data set tells."""
    layout: dict[str, Any]
    """Observations and actions."""

    @property
    def spec(self) -> EnvSpec:
        """What the models were built for."""
        low, high = self.references.low, self.references.high
        spec = RowLayout.from_json(self.layout).spec
        return replace(spec, random_score=low, reference_score=high)


def record_of(data: DataSet, environment: str, rows: int, episodes: int) -> Record:
    """The record of a data set of which so much was read for an environment of that name."""
    layout = RowLayout(spec_of(data, environment)).as_json()
    return Record(
        str(data.path),
        data.kind,
        data.name,
        fingerprint(data),
        rows,
        episodes,
        data.references,
        data.environment,
        layout,
    )


def write_record(folder: Path, record: Record) -> None:
    """Into a run folder."""
    try:
        write_text(folder / NAME, json.dumps(asdict(record), indent=1) + "\n")
    except OSError as error:
        raise unwritable("run", folder, error) from error


def read_record(folder: Path | None) -> Record | None:
    """The record of a run folder; None where it never had a data set, or there is no folder."""
    path = folder / NAME if folder else None
    if path is None or not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**told | {"references": References(**told["references"])})
        _ = record.spec
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); it says what the run learned from: put it back"
        ) from error
    return record
