"""`--dry-run`: what a run would take, from one update of it."""

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from worldmodels.config import Config
from worldmodels.runtime.memory import resident_gib
from worldmodels.system import System


def dry_run(config: Config) -> dict[str, Any]:
    """Build everything in memory, collect one batch, and time a second update after a first."""
    with TemporaryDirectory() as folder:  # where a replay on disk keeps its rows
        on_disk = Path(folder) if config.replay.storage == "disk" else None
        system = System(config, on_disk)
        try:
            return _measure(config, system)
        finally:
            system.close()


def _measure(config: Config, system: System) -> dict[str, Any]:
    system.collector.start()
    while not system.ready():
        system.collect()
    system.update()
    began = time.perf_counter()
    system.update()
    if system.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    updates = config.steps * config.updates_per_step
    return {
        "description": system.describe(),
        "seconds_per_update": seconds,
        "updates": math.floor(updates),
        "hours_of_updates": updates * seconds / 3600,
        "peak_memory_gib": resident_gib(peak=True),
        "peak_gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30
        if system.device.type == "cuda"
        else None,
    }
