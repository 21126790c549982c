"""What works on this machine, and why: the checks behind `worldmodels doctor`."""

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from worldmodels.config import Config
from worldmodels.dry_run import dry_run
from worldmodels.envs import registry
from worldmodels.errors import UserError
from worldmodels.presets import default_presets, load_config
from worldmodels.runtime.fabric import choose_device, choose_kernels
from worldmodels.runtime.rundir import describe_machine

_WRITTEN_MIB = 64


def examine() -> dict[str, Any]:
    """Every check; one that fails is reported in its place."""
    device, precision, reasons = choose_device(Config())
    suggested = default_presets("atari:Pong", device.startswith("cuda"))
    return {
        "machine": describe_machine(),
        "device": device,
        "precision": precision,
        "reasons": reasons,
        "kernels": [vars(choice) for choice in choose_kernels(torch.device(device))],
        "environments": [_environment(suite) for suite in registry.listing()],
        "disk": _disk(Path.cwd()),
        "training": _training(),
        "suggested": f"worldmodels train atari:Pong --preset {' '.join(suggested)}",
    }


def _environment(suite: dict[str, Any]) -> dict[str, Any]:
    """Whether the suite's first environment can be made and reset."""
    name = suite["names"][0]
    try:
        env = registry.make(registry.config_for(name), seed=0)
        env.reset()
        env.close()
    except UserError as error:
        return {"suite": suite["suite"], "works": False, "reason": str(error)}
    except Exception as error:  # a library that is installed but broken
        reason = f"{name} raised {type(error).__name__}: {error}"
        return {"suite": suite["suite"], "works": False, "reason": reason}
    return {"suite": suite["suite"], "works": True, "reason": f"{name} was made and reset"}


def _disk(folder: Path) -> dict[str, Any]:
    """Speed of writing a file to `folder`'s disk, synced."""
    block = os.urandom(2**20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = perf_counter()
            for _ in range(_WRITTEN_MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            seconds = perf_counter() - began
    except OSError as error:
        return {"works": False, "reason": f"cannot write in {folder}: {error.strerror}"}
    return {"works": True, "mebibytes_per_second": _WRITTEN_MIB / seconds, "folder": str(folder)}


def _training() -> dict[str, Any]:
    """Build a tiny agent, collect one batch, learn from it."""
    try:
        report = dry_run(load_config("catch", ["debug"]))
    except Exception as error:
        return {"works": False, "reason": f"{type(error).__name__}: {error}"}
    return {"works": True, "seconds_per_update": report["seconds_per_update"]}
