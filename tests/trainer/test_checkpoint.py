"""Checkpoints are whole or absent; a damaged one is named and the one before is used."""

import errno
import json
from pathlib import Path

import pytest

from worldmodels.errors import UserError
from worldmodels.runtime.checkpoint import BrokenCheckpoint, Checkpoints, step_of, verify


def fill(folder: Path) -> None:
    (folder / "replay").mkdir()
    (folder / "state.pt").write_bytes(b"state" * 100)
    (folder / "replay" / "rows.npz").write_bytes(b"rows" * 100)


def test_save_verify_prune(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 100, 20):
        verify(checkpoints.save(step, fill))
    assert [step_of(path) for path in checkpoints.steps()] == [5, 20, 100]
    kept = checkpoints.prune(2)
    assert kept == checkpoints.steps()
    assert len(kept) == 2


def test_saving_a_step_again_replaces_nothing(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, fill)

    def other(folder: Path) -> None:
        (folder / "other").write_text("x")

    first, second = checkpoints.steps()[0], checkpoints.save(5, other)
    assert checkpoints.steps() == [first, second]
    for path in (first, second):
        verify(path)
        assert step_of(path) == 5


def test_foreign_names_are_no_checkpoints(tmp_path: Path):
    (tmp_path / "step_backup").mkdir()
    assert Checkpoints(tmp_path).steps() == []


@pytest.mark.parametrize("victim", ["state.pt", "replay/rows.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, victim: str, damage: str):
    checkpoints = Checkpoints(tmp_path)
    good, bad = checkpoints.save(1, fill), checkpoints.save(2, fill)
    file = bad / victim
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1 if victim != "manifest.json" else 0x80
        file.write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match=Path(victim).name):
        verify(bad)
    warnings: list[str] = []
    assert next(checkpoints.good(warnings.append)) == good
    assert len(warnings) == 1
    checkpoints.set_aside_newer(good)
    assert checkpoints.steps() == [good]
    assert (tmp_path / f"damaged_{bad.name}").exists(), "a damaged checkpoint is not deleted"


def test_foreign_format_is_refused(tmp_path: Path):
    path = Checkpoints(tmp_path).save(1, fill)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(BrokenCheckpoint, match="format 99"):
        verify(path)


def test_full_disk_keeps_the_last_good_one(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(1, fill)

    def fail(folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="free disk space"):
        checkpoints.save(2, fail)
    assert [path.name for path in tmp_path.iterdir()] == [good.name], "nothing half-written stays"
    verify(good)


def test_what_a_killed_process_left_is_cleaned(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, fill)
    (tmp_path / ".step_000000000002.tmp").mkdir()
    checkpoints.clean()
    assert len(list(tmp_path.iterdir())) == 1
