"""Do VaGraM, IQL and RePo do what they claim on small tasks? README.md has the plan and the result.

Every run is a folder that is continued or left alone where it exists, so the command may be
stopped and repeated.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tasks  # noqa: F401 (registers the environments)
import torch

from worldmodels import Agent, Config, load_config, train
from worldmodels.envs.registry import config_for, make
from worldmodels.offline.collect import Recording, collect
from worldmodels.runtime.rundir import describe_machine

HERE = Path(__file__).parent
PENDULUM, TRACKED = "gym:tasks:DistractedPendulum-v0", "gym:tasks:TrackedCatch-v0"
MIX, EPISODES = "random:0.7+expert:0.3", 400
WEIGHTED = "reconstruction x10"
"""Reconstruction with ten times the weight on rewards."""
ONE_STEP = {"imagination_length": 1, "starts": 250}
"""As many imagined transitions as the preset has, none of them far from the data."""
JUDGED = 2000
"""Transitions on which the two models of Pendulum are compared."""


def pendulum(share: float, seed: int) -> Config:
    """MBPO with three networks of two layers of 16: too few for 16 logistic maps and a pendulum."""
    return load_config(
        PENDULUM,
        ["mbpo"],
        seed=seed,
        device="cpu",
        threads=1,
        steps=5000,
        train_ratio=1024,
        world_model={"members": 3, "elites": 2, "layers": 2, "units": 16, "vagram": share},
        actor_critic={"units": 64, "layers": 2, "retain": 500} | ONE_STEP,
        optimizer={"learning_rate": 1e-3},
        evaluation={"every": 500, "episodes": 20, "envs": 10},
        log={"every": 500, "tensorboard": False},
    )


def offline(name: str, seed: int, data: str) -> Config:
    """`iql` or `dreamer` on the data set `data`, with the networks and the step size of `demo`."""
    actor_critic: Any = {"name": "iql", "units": 64} if name == "iql" else {}
    return load_config(
        "catch",
        ["dreamerv3", "demo"],
        seed=seed,
        device="cpu",
        threads=1,
        steps=800,
        offline=data,
        evaluation={"every": 200, "episodes": 100, "envs": 10},
        log={"every": 200, "tensorboard": False},
        actor_critic=actor_critic,
    )


def distracted(name: str, seed: int) -> Config:
    """Preset demo with a smaller step size; objective and weight of rewards by `name`."""
    model: Any = {}
    if name == "repo":
        model = {"objective": "repo", "kl_target": 0.5, "kl_rate": 1e-2}
    if name == WEIGHTED:
        model = {"reward_weight": 10.0}
    return load_config(
        TRACKED,
        ["dreamerv3", "demo"],
        seed=seed,
        device="cpu",
        threads=1,
        steps=20000,
        world_model=model,
        optimizer={"learning_rate": 1e-3},
        evaluation={"every": 2500, "episodes": 100, "envs": 10},
        log={"every": 500, "tensorboard": False},
    )


def record(runs: Path) -> tuple[Path, float]:
    """The data set of Catch, of a run of 4000 steps and random play, and its mean return."""
    source, data = runs / "catch_source", runs / "catch_data"
    config = load_config("catch", ["dreamerv3", "demo"], steps=4000, device="cpu", threads=1)
    play(source, config)
    told = runs / "catch_data.json"
    if not told.exists():
        recording = Recording(config_for("catch"), MIX, EPISODES, source, 0, 8, "cpu")
        _, _, parts = collect(recording, data)
        told.write_text(json.dumps(parts) + "\n")
    parts = json.loads(told.read_text())
    total = sum(part["mean_return"] * part["episodes"] for part in parts)
    return data, total / sum(part["episodes"] for part in parts)


def play(folder: Path, config: Config) -> Path:
    """Train one run to its end, going on where it stopped."""
    began = time.monotonic()
    train(config, folder, resume=(folder / "config.yaml").exists(), quiet=True)
    print(
        f"{folder.name}: {curve(folder)[-1][1]:.2f}, {time.monotonic() - began:.0f} s", flush=True
    )
    return folder


def curve(folder: Path) -> list[tuple[int, float]]:
    """Step and mean return of every evaluation."""
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return [(row["step"], row["mean"]) for row in rows if row["kind"] == "eval"]


def played(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Observation, action and next observation of random play in DistractedPendulum."""
    env, random = make(config_for(PENDULUM), seed), np.random.default_rng(seed)
    row = env.reset()
    for _ in range(JUDGED):
        before = row.obs["vector"][0]
        action = random.uniform(-1, 1, 1).astype(np.float32)
        row = env.step(action)
        yield before, action, row.obs["vector"][0]
        if row.is_last[0]:
            row = env.reset()


@torch.no_grad()
def model_error(folder: Path) -> dict[str, float]:
    """Share of the changes' variance that the elites' mean leaves unexplained under random play:
    of the pendulum's three numbers and of the lattice's."""
    model: Any = Agent.load(folder, device="cpu").world_model
    before, action, after = (torch.from_numpy(np.stack(x)) for x in zip(*played(7), strict=True))
    mean, _ = model.networks(model.standardiser(torch.cat([before, action], 1)))
    change = after - before
    left = (mean[model.elites, :, :-1].mean(0) - change).square().mean(0) / change.var(0)
    return {"pendulum": float(left[:3].mean()), "lattice": float(left[3:].mean())}


def told(folders: list[Path]) -> dict[str, Any]:
    """Final returns, curves, seconds and commits of one method, one per seed."""
    curves = [curve(folder) for folder in folders]
    lines = [(folder / "metrics.jsonl").read_text().splitlines()[-1] for folder in folders]
    noted = [json.loads((folder / "environment.json").read_text()) for folder in folders]
    final = [points[-1][1] for points in curves]
    return {
        "final": final,
        "mean": float(np.mean(final)),
        "curves": curves,
        "mean_of_curve": [float(np.mean([value for _, value in points])) for points in curves],
        "seconds": [json.loads(line)["time/seconds"] for line in lines],
        "commits": sorted({one["commit"] for one in noted}),
    }


def vagram(runs: Path, seeds: list[int]) -> dict[str, Any]:
    """MBPO with and without the weights."""
    found = {}
    for name, share in (("mbpo", 0.0), ("vagram", 0.5)):
        folders = [play(runs / f"{name}_{seed}", pendulum(share, seed)) for seed in seeds]
        errors = [model_error(folder) for folder in folders]
        found[name] = told(folders) | {"unexplained": errors}
    return found


def iql(runs: Path, seeds: list[int]) -> dict[str, Any]:
    """IQL and Dreamer on the same data set, whose own mean return is noted beside."""
    data, mean = record(runs)
    found: dict[str, Any] = {"data": {"mean": mean, "mix": MIX, "episodes": EPISODES}}
    for name in ("iql", "dreamer"):
        runs_of = [play(runs / f"{name}_{s}", offline(name, s, str(data))) for s in seeds]
        found[name] = told(runs_of)
    return found


def repo(runs: Path, seeds: list[int]) -> dict[str, Any]:
    """RePo and reconstruction before decoys."""
    found = {}
    for name in ("repo", "reconstruction", WEIGHTED):
        folders = [play(runs / f"{name}_{seed}", distracted(name, seed)) for seed in seeds]
        found[name] = told(folders)
    return found


def draw(found: dict[str, Any], out: Path) -> None:
    """Returns over steps, a panel a part; one thin line per seed, their mean thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="compressed")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (part, methods) in zip(panels, found.items(), strict=True):
        for number, (name, one) in enumerate(methods.items()):
            if name == "data":
                axis.axhline(one["mean"], color="gray", ls=":", label="the data's own")
                continue
            steps = [step for step, _ in one["curves"][0]]
            values = np.array([[value for _, value in points] for points in one["curves"]])
            axis.plot(steps, values.T, color=f"C{number}", lw=0.6, alpha=0.6)
            axis.plot(steps, values.mean(0), color=f"C{number}", lw=2.2, label=name)
        axis.set(title=part, xlabel="update" if part == "iql" else "agent step")
        axis.legend()
    panels[0].set_ylabel("mean return")
    figure.savefig(out, dpi=120)


PARTS = {"vagram": vagram, "iql": iql, "repo": repo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/model_losses"))
    parser.add_argument("--out", type=Path, default=Path(os.path.relpath(HERE)))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    found = json.loads(file.read_text())["parts"] if file.exists() else {}
    for part in args.parts:
        found[part] = PARTS[part](args.runs, args.seeds)
        machine = describe_machine()
        file.write_text(json.dumps({"machine": machine, "parts": found}, indent=1) + "\n")
    draw(found, args.out / "returns.png")
    for part, methods in found.items():
        for name, one in methods.items():
            each = ", ".join(f"{value:.2f}" for value in one.get("final", []))
            print(f"{part:8} {name:16} mean {one['mean']:.2f} ({each})")


if __name__ == "__main__":
    sys.exit(main())
