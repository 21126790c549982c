"""Where a resumed run goes on: at a checkpoint, or, where there was none yet, at its beginning."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import torch

from worldmodels.config_file import load_config_file
from worldmodels.errors import UserError
from worldmodels.replay import CorruptReplay
from worldmodels.runtime.checkpoint import Checkpoints
from worldmodels.system import System

Loaded: TypeAlias = tuple[Path, dict[str, Any], list[str]]
"""A checkpoint, its state, and what could not be continued exactly, a sentence each."""
UNFIT = (UserError, RuntimeError, LookupError, ValueError)
"""What loading the checkpoint of another run raises."""


def load_newest(
    checkpoints: Checkpoints, system: System, say: Callable[[str], None]
) -> Loaded | None:
    """Load the newest checkpoint from which the run goes on exactly; None where there is none.

    Where every one of them needs a damaged file of the replay, the newest goes on without it.
    """
    incomplete: list[Path] = []
    for path in checkpoints.good(say):
        try:
            return _load(path, system, drop_damaged=False)
        except UNFIT as error:
            say(f"checkpoint {path} does not fit: {_first_line(error)}; using the one before")
            if isinstance(error, CorruptReplay):
                incomplete.append(path)
    for path in incomplete:
        say(f"no checkpoint is whole: going on from {path}, without what is damaged")
        try:
            return _load(path, system, drop_damaged=True)
        except UNFIT as error:
            say(f"checkpoint {path}: {_first_line(error)}")
    return None


def set_aside(run: Path) -> str:
    """Move what a run without a checkpoint has collected to a folder of its own; says which.

    The run then begins again with the same seeds and collects the same rows: to take up the old
    ones would give it these twice, without the parameters that had learned from them. Rows of a
    data set are only copies.
    """
    if not any((run / "replay").glob("*_*")):
        return "no checkpoint yet: starting from the beginning"
    if load_config_file(run / "config.yaml").offline:
        shutil.rmtree(run / "replay")
        (run / "replay").mkdir()
        return "no checkpoint yet: starting from the beginning, with the data set read again"
    folders = (run / f"set_aside_{number:02d}" for number in count())
    aside = next(folder for folder in folders if not (folder / "replay").exists())
    aside.mkdir(exist_ok=True)
    for name in ("config.yaml", "status.json", "metrics.jsonl", "scores.jsonl"):
        if (run / name).exists():
            shutil.copy(run / name, aside)
    (run / "replay").rename(aside / "replay")  # until here, nothing has changed
    (run / "replay").mkdir()
    return (
        "the run was stopped before its first checkpoint, so it begins again at step 0 with the "
        f"same seeds; what it had collected is kept in {aside} (`worldmodels replay inspect "
        f"{aside}`) and may be deleted"
    )


def _load(path: Path, system: System, drop_damaged: bool) -> Loaded:
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return path, state, system.load(path, state, drop_damaged)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
