"""Checkpoints: folders that are either whole or absent, each with a manifest of its checksums.

A checkpoint is written as `.step_N.tmp`, synced, and renamed; its manifest is written last. The
newest that verifies is the one that is read, and nothing older is deleted before a newer is safe.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from worldmodels.errors import UserError
from worldmodels.files import checksum, sync_file, sync_folder, unwritable, write_text

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step_\d{12}_\d{2}")


class BrokenCheckpoint(UserError):
    """A checkpoint is torn, truncated, foreign or of another format."""


class Checkpoints:
    """The checkpoints of one run, oldest first."""

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[Path]:
        """Every finished checkpoint folder, oldest first."""
        return sorted(path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name))

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a fresh folder, then publish it under a name of its own, atomically.

        A step that is saved again gets a second folder: nothing is ever replaced.
        """
        earlier = sum(step_of(path) == step for path in self.steps())
        final = self.folder / f"step_{step:012d}_{earlier:02d}"
        temporary = self.folder / f".{final.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            files = {}
            for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
                sync_file(path)
                name = path.relative_to(temporary).as_posix()
                files[name] = [path.stat().st_size, checksum(path)]
            manifest = {"format": FORMAT, "step": step, "files": files}
            write_text(temporary / MANIFEST, json.dumps(manifest, indent=1))
            temporary.rename(final)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise unwritable("checkpoint", temporary, error) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.folder.glob(".step_*"):
            shutil.rmtree(path, ignore_errors=True)

    def set_aside_newer(self, path: Path) -> None:
        """Rename the (damaged) checkpoints newer than `path`, so that they no longer count."""
        for newer in self.steps():
            if newer.name > path.name:
                newer.rename(newer.with_name(f"damaged_{newer.name}"))

    def prune(self, keep: int) -> list[Path]:
        """Delete all but the newest `keep`; returns those that are left."""
        paths = self.steps()
        for path in paths[:-keep]:
            shutil.rmtree(path)
        return paths[-keep:]

    def good(self, warn: Callable[[str], None]) -> Iterator[Path]:
        """Verified checkpoints, newest first; `warn` is told of each that is damaged."""
        for path in reversed(self.steps()):
            try:
                verify(path)
            except BrokenCheckpoint as error:
                warn(f"{error}; falling back to the one before")
                continue
            yield path


def step_of(path: Path) -> int:
    """The agent step of a checkpoint's folder."""
    return int(path.name.split("_")[1])


def verify(path: Path) -> None:
    """Raise BrokenCheckpoint, naming the file, unless every byte is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenCheckpoint(f"checkpoint file {path / MANIFEST} is damaged ({error})") from error
    if version != FORMAT:
        raise BrokenCheckpoint(
            f"checkpoint {path} has format {version}, and this version reads format {FORMAT}"
        )
    for name, (size, crc) in files.items():
        file = path / name
        if not file.is_file():
            raise BrokenCheckpoint(f"checkpoint file {file} is missing")
        if file.stat().st_size != size:
            raise BrokenCheckpoint(
                f"checkpoint file {file} has {file.stat().st_size} bytes instead of {size}"
            )
        if checksum(file) != crc:
            raise BrokenCheckpoint(f"checkpoint file {file} does not hold what was written")
