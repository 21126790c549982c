"""A run whose replay was damaged on disk goes on, and says what it lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.replay.damaging import damage
from worldmodels.config import Config
from worldmodels.errors import UserError
from worldmodels.replay.folder import ReplayFolder
from worldmodels.runtime.checkpoint import Checkpoints
from worldmodels.trainer import train


def small(tiny: Config, retention: str = "fifo", storage: str = "ram", **options) -> Config:
    replay = replace(
        tiny.replay, retention=retention, storage=storage, sampling="dfs", segment=16, **options
    )
    evaluation = replace(tiny.evaluation, episodes=1)
    log = replace(tiny.log, every=20)
    return replace(tiny, steps=100, train_ratio=4, replay=replay, log=log, evaluation=evaluation)


@pytest.fixture(scope="module")
def whole_run(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(tiny), tmp_path_factory.mktemp("whole") / "run", quiet=True)


@pytest.mark.parametrize(
    ("retention", "storage", "how"),
    [
        ("fifo", "ram", "altered"),
        ("fifo", "disk", "truncated"),
        ("reservoir", "ram", "deleted"),
        ("reservoir", "disk", "altered"),
        ("wmar", "ram", "truncated"),
        ("wmar", "disk", "deleted"),
    ],
)
def test_a_run_goes_on_without_a_damaged_segment(
    tiny: Config, tmp_path: Path, retention: str, storage: str, how: str
):
    run = train(small(tiny, retention, storage), tmp_path / "run", quiet=True)
    rows = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["replay/rows"]
    path = sorted((run / "replay").glob("segment_*"))[1]
    damage(path, how)
    assert next(what for what, why in ReplayFolder(run).verify() if why) == path.name
    train(replace(small(tiny, retention, storage), steps=120), run, resume=True, quiet=True)
    (told,) = [line for line in (run / "log.txt").read_text().splitlines() if "WARNING" in line]
    assert "WARNING: 16 rows of the replay are lost" in told
    assert f"missing: {path.name}; the run goes on without them" in told
    assert "no longer bit for bit" in told
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["step"]) == ("done", 120)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 120
    if retention == "fifo":
        assert last["replay/rows"] == rows + 22 - 16


def test_the_next_checkpoint_is_whole_again(tiny: Config, tmp_path: Path, whole_run):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    damage(min((run / "replay").glob("segment_*")), "altered")
    for steps in (110, 120):
        train(replace(small(tiny), steps=steps), run, resume=True, quiet=True)
    assert (run / "log.txt").read_text().count("WARNING") == 1
    assert [what for what, why in ReplayFolder(run).verify() if why] == []


def test_a_checkpoint_that_does_without_the_damaged_segment_is_taken(tiny: Config, tmp_path: Path):
    """Exactly: the run then equals the one that nothing happened to."""
    config = replace(small(tiny), checkpoint=replace(tiny.checkpoint, keep=4))
    whole, run = (train(config, tmp_path / name, quiet=True) for name in ("whole", "run"))
    first = Checkpoints(run / "checkpoints").steps()[-1]
    before = set((run / "replay").glob("segment_*"))
    train(replace(config, steps=140), run, resume=True, quiet=True)
    damage(min(set((run / "replay").glob("segment_*")) - before), "altered")
    for folder in (whole, run):
        train(replace(config, steps=180), folder, resume=True, quiet=True)
    told = (run / "log.txt").read_text()
    assert f"resumed from {first}" in told.split("does not hold what was written")[-1]
    assert "WARNING" not in told
    assert (run / "scores.jsonl").read_text() == (whole / "scores.jsonl").read_text()


def test_a_replay_that_is_gone_is_refused_and_nothing_changes(
    tiny: Config, tmp_path: Path, whole_run
):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    shutil.rmtree(run / "replay")
    kept = (run / "metrics.jsonl").read_text(), (run / "status.json").read_text()
    with pytest.raises(UserError, match="can be resumed"):
        train(replace(small(tiny), steps=120), run, resume=True, quiet=True)
    assert "put the folder back, or start a new run" in (run / "log.txt").read_text()
    assert kept == ((run / "metrics.jsonl").read_text(), (run / "status.json").read_text())
    shutil.copytree(whole_run / "replay", run / "replay", dirs_exist_ok=True)
    train(replace(small(tiny), steps=120), run, resume=True, quiet=True)
