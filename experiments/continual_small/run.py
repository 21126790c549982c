"""Does WMAR's replay keep tasks that a FIFO of the same size forgets? README.md has the result.

Every run is a folder that is continued or left alone where it exists, so the command may be
stopped and repeated.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from worldmodels import Config, load_config, train
from worldmodels.cli.report import run as report
from worldmodels.runtime.rundir import commit, describe_machine

HERE = Path(__file__).parent
STREAM = "continual:catch"
METHODS = ("fifo", "wmar")


def configuration(retention: str, seed: int, task: str = "") -> Config:
    """The stream's default presets; both retentions have the same rows and everything else."""
    config = load_config(STREAM)
    return replace(
        config,
        env=replace(config.env, task=task),
        steps=config.env.steps_per_task if task else config.steps,
        seed=seed,
        device="cpu",
        threads=1,
        replay=replace(config.replay, retention=retention),
        log=replace(config.log, tensorboard=False),
    )


def play(folder: Path, config: Config) -> tuple[str, float]:
    """Train one run to its end, going on where it stopped; returns its name and the seconds."""
    began = time.monotonic()
    train(config, folder, resume=(folder / "config.yaml").exists(), quiet=True)
    return folder.name, time.monotonic() - began


def jobs(out: Path, seeds: Iterable[int]) -> list[tuple[Path, Config]]:
    """All streams, then every task alone: the references of normalised scores and of transfer."""
    seeds = list(seeds)
    tasks = load_config(STREAM).env.task_names
    streams = [(out / f"{m}_{seed}", configuration(m, seed)) for seed in seeds for m in METHODS]
    alone = [
        (out / f"alone_{task}_{seed}", configuration("fifo", seed, task))
        for seed in seeds
        for task in tasks
    ]
    return [*streams, *alone]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/continual_small"))
    parser.add_argument("--out", type=Path, default=Path(os.path.relpath(HERE / "report")))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    machine = describe_machine()
    print(f"commit {commit()}; {machine['processor']}, {machine['cores']} cores", flush=True)
    planned = jobs(args.runs, args.seeds)
    context = get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        for name, seconds in pool.map(play, *zip(*planned, strict=True)):
            print(f"{name}: {seconds:.0f} s", flush=True)
    folders = [str(folder) for folder, _ in planned]
    streams = [name for name in folders if not Path(name).name.startswith("alone_")]
    alone = [name for name in folders if name not in streams]
    report(["--continual", *streams, "--single-task", *alone, "--out", str(args.out)])


if __name__ == "__main__":
    sys.exit(main())
