"""The run folder (design law 9): what is in it, who holds it, and how far it got.

config.yaml  command.txt  environment.json  status.json  log.txt  checkpoints/  replay/
metrics.jsonl  scores.jsonl  tensorboard/  evaluations.jsonl (of `worldmodels eval`)
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from worldmodels import __version__
from worldmodels.config import Config
from worldmodels.config_file import dump_config
from worldmodels.errors import UserError
from worldmodels.files import unwritable, write_text

_PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "lightning", "einops")


class RunFolder:
    """One run's folder, locked by this process while it trains."""

    def __init__(self, path: Path):
        self.path = path
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._lock = FileLock(path / ".lock")

    @classmethod
    def create(cls, path: Path | None, config: Config, command: str) -> "RunFolder":
        """A new folder: `path`, or a fresh one under runs/; refuses one that holds a run."""
        path = path or fresh_path(config)
        if (path / "config.yaml").exists():
            raise UserError(
                f"{path} already holds a run; continue it with --resume {path}, "
                "or choose another folder with --run"
            )
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.lock()
            for name in ("checkpoints", "replay"):
                (path / name).mkdir(exist_ok=True)
            write_text(path / "command.txt", command + "\n")
            write_text(path / "environment.json", json.dumps(describe_machine(), indent=1) + "\n")
            folder.write_config(config)
        except OSError as error:
            raise unwritable("run", path, error) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that is to be resumed."""
        folder = cls(path)
        try:
            folder.lock()
        except OSError as error:
            raise unwritable("run", path, error) from error
        return folder

    def write_config(self, config: Config) -> None:
        """The configuration that holds from now on."""
        write_text(self.path / "config.yaml", dump_config(config))

    def lock(self) -> None:
        """Hold the folder until this process ends, however it ends."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"another process is training in {self.path}; wait for it or stop it first"
            ) from error

    def release(self) -> None:
        """Let another process have the folder; a new run that never began leaves none behind."""
        self._lock.release()
        if self._made and not (self.path / "status.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # another run has moved in
                for parent in self._made[1:]:
                    parent.rmdir()

    def was_saved(self) -> bool:
        """Whether a checkpoint was ever written, as far as the run's status tells."""
        try:
            return json.loads((self.path / "status.json").read_text())["saved"]
        except FileNotFoundError:  # killed before its first step
            return False
        except (OSError, ValueError, LookupError):
            return True

    def set_status(self, status: str, step: int, steps: int, **extra: Any) -> None:
        """Note running, done, stopped or failed, and how far the run got."""
        body = {"status": status, "step": step, "steps": steps, "pid": os.getpid()}
        body |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **extra}
        write_text(self.path / "status.json", json.dumps(body, indent=1) + "\n")


def fresh_path(config: Config) -> Path:
    """runs/<environment>/<backbone>-<seed>-<time>, not yet taken."""
    place = Path("runs") / config.env.name.replace(":", "-").replace("/", "-").lower()
    stem = f"{config.backbone.name.split(':')[-1]}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = place / stem, 1
    while path.exists():
        count += 1
        path = place / f"{stem}-{count}"
    return path


def describe_machine() -> dict[str, Any]:
    """Versions, machine and commit: what a number of this run depends on."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "worldmodels": __version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def commit() -> str | None:
    """The commit of the source checkout, `-dirty` where files differ; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
