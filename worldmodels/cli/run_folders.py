"""Run folders as the commands see them: found by name, and read without loading a model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from worldmodels.config_file import read_options
from worldmodels.errors import UserError, near

ROOT = Path("runs")


@dataclass(frozen=True)
class RunSummary:
    """One row of `worldmodels runs`; what a broken folder does not tell is None."""

    path: str
    env: str | None
    backbone: str | None
    status: str | None
    step: int | None
    steps: int | None
    score: float | None
    """Mean return of the last evaluation, over its tasks."""
    mebibytes: float
    modified: float
    """Seconds since 1970 of the last change of status."""


def find_run(name: str) -> Path:
    """The run folder `name`; a missing or foreign one is an error that lists near folders."""
    path = Path(name)
    if (path / "config.yaml").is_file():
        return path
    what = "is no run folder (it has no config.yaml)" if path.is_dir() else "does not exist"
    folders = [str(folder) for folder in run_folders(ROOT)]
    advice = near(name, folders) or "; `worldmodels runs` lists the runs"
    raise UserError(f"{name} {what}{advice}")


def run_folders(root: Path) -> Iterator[Path]:
    """Every run folder under `root`, itself included, in order of their names.

    What lies inside a run is a part of it: rows that were set aside.
    """
    found = {config.parent for config in root.glob("**/config.yaml")}
    return (folder for folder in sorted(found) if found.isdisjoint(folder.parents))


def summarise(folder: Path) -> RunSummary:
    """What a run's small files say; missing and damaged ones are tolerated."""
    try:
        options = read_options(folder / "config.yaml")
    except UserError:
        options = {}
    status = _read_json(folder / "status.json")
    return RunSummary(
        path=str(folder),
        env=_name(options.get("env")),
        backbone=_name(options.get("backbone")),
        status=_status(folder, status.get("status")) if options else "broken",
        step=status.get("step"),
        steps=options.get("steps"),
        score=_last_score(folder / "scores.jsonl"),
        mebibytes=sum(_size(path) for path in folder.rglob("*")) / 2**20,
        modified=_changed(folder),
    )


def _status(folder: Path, told: str | None) -> str | None:
    """What the run says of itself; a running one whose folder nobody holds was killed."""
    if told != "running":
        return told
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            return "killed"
    except (Timeout, OSError):
        return told


def _name(block: Any) -> str | None:
    return block.get("name") if isinstance(block, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _last_score(path: Path) -> float | None:
    """The mean of the last evaluation, over its tasks; lines torn by a kill are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    last: dict[str, Any] = {}
    means: list[float] = []
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("kind") != "eval" or "mean" not in row:
            continue
        last = last or row
        if row.get("step") != last.get("step"):
            break
        means.append(row["mean"])
    return sum(means) / len(means) if means else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # removed meanwhile by the run itself
        return 0


def _changed(folder: Path) -> float:
    status = folder / "status.json"
    return (status if status.exists() else folder).stat().st_mtime
