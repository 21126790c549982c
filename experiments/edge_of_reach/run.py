"""Is the edge of reach what ruins the policy, and what cures it? README.md has plan and result.

Every run leaves a file with its curve and is skipped where that exists, so that the command may be
stopped and repeated.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lattice import Run, configuration
from methods import CURES, LATTICE, OFF_POLICY, PIXELS, PLANE
from off_policy import Run as OffPolicyRun
from pixels import Run as PixelsRun
from pixels import configuration as pixels_configuration
from pixels import learn_model
from plane import Run as PlaneRun
from plots import draw
from tables import write_tables
from truth import Lattice

from worldmodels.envs.reach_config import ReachConfig
from worldmodels.runtime.rundir import commit, describe_machine

HERE = Path(__file__).parent
SEEDS = [0, 1, 2, 3, 4]
EVERY, UPDATES = 100, 1200
PLANE_EVERY, PLANE_UPDATES = 250, 5000
PIXELS_EVERY, PIXELS_UPDATES = 200, 2400
OFF_POLICY_EVERY, OFF_POLICY_UPDATES = 250, 4000


def ramp(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve on the lattice whose edge tempts."""
    run = Run(configuration("reach:ramp", LATTICE[method]), seed)
    longer = method in ("oracle", *CURES)
    found = follow(run, UPDATES * 2 if longer else UPDATES, EVERY)
    return {**found, "footprint": run.lattice.footprint(run.policy())}


def bump(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve where nothing beyond the edge tempts: the negative control."""
    return follow(Run(configuration("reach:bump", LATTICE[method]), seed), UPDATES, EVERY)


def off_policy(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve of soft Q-learning."""
    run = OffPolicyRun(OFF_POLICY[method], Lattice(ReachConfig()), seed)
    return follow(run, OFF_POLICY_UPDATES, OFF_POLICY_EVERY)


def pixels(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve from pictures where the edge tempts."""
    return pictures("ramp", method, seed, folder, PIXELS_UPDATES)


def pixels_bump(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve from pictures where nothing beyond the edge tempts."""
    return pictures("bump", method, seed, folder, UPDATES)


def pictures(goal: str, method: str, seed: int, folder: Path, updates: int) -> dict[str, Any]:
    """A curve from pictures, in a world model learned once for every seed."""
    model = folder / f"model_{seed}.pt"
    foresight = model.with_suffix(".json")
    if not foresight.exists():
        foresight.write_text(json.dumps(learn_model(goal, seed, model)))
    config = pixels_configuration(goal, {}, values=LATTICE[method], model_updates=1)
    found = follow(PixelsRun(config, seed, model), updates, PIXELS_EVERY)
    return {**found, "foresight": json.loads(foresight.read_text())}


def plane(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """A curve of SAC on the plane."""
    return follow(PlaneRun(PLANE[method], seed), PLANE_UPDATES, PLANE_EVERY)


def follow(run: Any, updates: int, every: int) -> dict[str, Any]:
    """Update and measure in turn."""
    began, curve = time.monotonic(), []
    for update in range(1, updates + 1):
        run.update()
        if update % every == 0:
            curve.append({"update": update, **run.measure()})
    return {"curve": curve, "seconds": round(time.monotonic() - began, 1)}


STUDIES: dict[str, tuple[Callable[[str, int, Path], dict[str, Any]], list[str]]] = {
    "ramp": (ramp, list(LATTICE)),
    "bump": (bump, ["plain", *CURES]),
    "off_policy": (off_policy, list(OFF_POLICY)),
    "pixels": (pixels, list(PIXELS)),
    "pixels_bump": (pixels_bump, list(PIXELS)),
    "plane": (plane, list(PLANE)),
}


def play(study: str, method: str, seed: int, file: Path) -> str:
    """One run, on one thread, into its file."""
    torch.set_num_threads(1)
    file.parent.mkdir(parents=True, exist_ok=True)
    found = STUDIES[study][0](method, seed, file.parent)
    told = {"study": study, "method": method, "seed": seed, "commit": commit(), **found}
    whole = file.with_suffix(".part")
    whole.write_text(json.dumps(told))
    os.replace(whole, file)
    return f"{study} {method} {seed}: {found['curve'][-1]['return']:.1f}, {found['seconds']} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/edge_of_reach"))
    parser.add_argument("--out", type=Path, default=Path(os.path.relpath(HERE)))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    planned = [
        (study, method, seed, args.runs / study / f"{method}_{seed}.json")
        for study in args.studies
        for seed in args.seeds
        for method in STUDIES[study][1]
    ]
    todo = [job for job in planned if not job[-1].exists()]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        for line in pool.map(play, *zip(*todo, strict=True)) if todo else ():
            print(line, flush=True)
    found = [json.loads(file.read_text()) for *_, file in planned]
    write_tables(found, describe_machine(), args.out / "results.json")
    draw(found, args.out)


if __name__ == "__main__":
    sys.exit(main())
