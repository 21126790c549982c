"""A run that was killed before its first checkpoint begins again, and loses no row silently."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodels.cli.run_folders import run_folders
from worldmodels.config import Config
from worldmodels.errors import NonFinite, UserError
from worldmodels.replay.folder import ReplayFolder
from worldmodels.trainer import Trainer, train


class Killed(BaseException):
    pass


def metrics(run: Path) -> list[dict]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def rows_in(folder: Path) -> int:
    return sum(piece.rows for piece in ReplayFolder(folder).pieces())


def killed_at(config: Config, run: Path, step: int, monkeypatch, resume: bool = False) -> None:
    """Train until `step`, and leave the folder as a killed process does."""
    learn = Trainer.log_episode

    def kill(self, episode):
        if self.system.step >= step:
            raise Killed
        learn(self, episode)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "log_episode", kill)
        patch.setattr(Trainer, "save", lambda self: None)
        with pytest.raises(Killed):
            train(config, run, resume=resume, quiet=True)


def test_killed_by_the_system(tmp_path: Path, finished: Path, tiny: Config):
    """The resumed run is the one that was never killed; the first attempt can still be read."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "worldmodels", "train", "catch", "--preset", "debug"]
    options = ["--deterministic", "--threads", "1", "--steps", "200", "--log.every", "20"]
    process = subprocess.Popen([*command, *options, "--run", str(run)], stdout=subprocess.DEVNULL)
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = rows_in(run)
    assert before >= 60
    assert not list((run / "checkpoints").iterdir())
    train(tiny, run, resume=True, quiet=True)
    assert metrics(run) == metrics(finished)
    assert (run / "scores.jsonl").read_text() == (finished / "scores.jsonl").read_text()
    assert rows_in(run) == rows_in(finished)
    assert f"is kept in {run}/set_aside_00" in (run / "log.txt").read_text()
    assert rows_in(run / "set_aside_00") == before
    assert len(metrics(run / "set_aside_00")) >= 3
    assert not [what for what, why in ReplayFolder(run / "set_aside_00").verify() if why]
    assert list(run_folders(tmp_path)) == [run], "what was set aside is no run of its own"


def test_killed_twice(tiny: Config, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    killed_at(tiny, run, 40, monkeypatch)
    first = rows_in(run)
    killed_at(tiny, run, 80, monkeypatch, resume=True)
    second = rows_in(run)
    assert second > first > 40
    killed_at(tiny, run, 20, monkeypatch, resume=True)
    assert [rows_in(run / f"set_aside_0{n}") for n in (0, 1)] == [first, second]


def test_a_resume_that_is_killed_while_it_sets_aside(tiny: Config, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    killed_at(tiny, run, 40, monkeypatch)
    before, lines = rows_in(run), metrics(run)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            train(tiny, run, resume=True, quiet=True)
    assert (rows_in(run), metrics(run)) == (before, lines)
    killed_at(tiny, run, 20, monkeypatch, resume=True)
    assert rows_in(run / "set_aside_00") == before
    assert not (run / "set_aside_01").exists()


def test_a_run_that_failed_begins_again_with_other_options(tiny: Config, tmp_path: Path):
    run = tmp_path / "run"
    broken = replace(tiny.optimizer, learning_rate=1e30, warmup=0, agc=0.0)
    with pytest.raises(NonFinite):
        train(replace(tiny, optimizer=broken), run, quiet=True)
    train(replace(tiny, steps=60), run, resume=True, quiet=True)
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    assert rows_in(run / "set_aside_00") > 0


def test_without_rows_nothing_is_set_aside(tiny: Config, tmp_path: Path, monkeypatch):
    run, config = tmp_path / "run", replace(tiny, steps=40)

    def kill(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "loop", kill)
        with pytest.raises(Killed):
            train(config, run, quiet=True)
    train(config, run, resume=True, quiet=True)
    assert "starting from the beginning" in (run / "log.txt").read_text()
    assert not list(run.glob("set_aside*"))


def test_a_run_that_was_saved_never_begins_again(broken_copy: Path, tiny: Config):
    """All its checkpoints are gone: that is another matter, whatever its rows."""
    shutil.rmtree(broken_copy / "checkpoints")
    rows = rows_in(broken_copy)
    with pytest.raises(UserError, match=f"train --config {broken_copy}/config.yaml` starts anew"):
        train(replace(tiny, steps=300), broken_copy, resume=True, quiet=True)
    assert rows_in(broken_copy) == rows
    assert not list(broken_copy.glob("set_aside*"))
