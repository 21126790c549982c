"""Do SAC, MBPO, MOPO and RAVL learn Pendulum, online and from a data set? README.md has the result.

Every run is a folder that is continued or left alone where it exists, so the command may be
stopped and repeated.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels import Config, load_config, train
from worldmodels.runtime.rundir import describe_machine

HERE = Path(__file__).parent
ENV = "gym:Pendulum-v1"
ONLINE = ("sac", "mbpo", "mopo", "ravl-mbpo")
OFFLINE = ("mbpo", "mopo", "ravl-mbpo")
STEPS = 5000
MODEL_UPDATES = 3000
BEHAVIOUR_UPDATES = 8000
BOUND = -250


def configuration(preset: str, seed: int, offline: str = "") -> Config:
    """A preset with narrow networks, two updates per step, and a ring that soon forgets what the
    first, bad models imagined; `offline` names the data set."""
    narrow = {"units": 64, "layers": 2}
    options: dict[str, Any] = {"actor_critic": dict(narrow)}
    if preset != "sac":
        options |= {"world_model": narrow, "actor_critic": narrow | {"retain": 500}}
    schedule = {"steps": STEPS, "train_ratio": 1024}
    if offline:
        steps = MODEL_UPDATES + BEHAVIOUR_UPDATES
        schedule = {"steps": steps, "model_updates": MODEL_UPDATES, "offline": offline}
    return load_config(
        ENV,
        [preset],
        seed=seed,
        device="cpu",
        threads=1,
        optimizer={"learning_rate": 1e-3},
        evaluation={"every": 1000 if offline else 500, "episodes": 20, "envs": 10},
        log={"every": 500, "tensorboard": False},
        **options,
        **schedule,
    )


def play(folder: Path, config: Config) -> None:
    """Train one run to its end, going on where it stopped."""
    began = time.monotonic()
    train(config, folder, resume=(folder / "config.yaml").exists(), quiet=True)
    print(
        f"{folder.name}: {curve(folder)[-1][1]:.0f}, {time.monotonic() - began:.0f} s", flush=True
    )


def curve(folder: Path) -> list[tuple[int, float]]:
    """Step and mean return of every evaluation."""
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return [(row["step"], row["mean"]) for row in rows if row["kind"] == "eval"]


def seconds(folder: Path) -> float:
    """Of training, evaluations included."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["time/seconds"]


def noted(folder: Path) -> dict[str, Any]:
    """Commit, packages and machine of a run."""
    return json.loads((folder / "environment.json").read_text())


def results(folders: dict[str, list[Path]]) -> dict[str, Any]:
    """Final returns and curves of every method, one per seed."""
    found = {}
    for name, runs in folders.items():
        curves = [curve(run) for run in runs]
        final = [points[-1][1] for points in curves]
        found[name] = {
            "final": final,
            "mean": float(np.mean(final)),
            "worst": min(final),
            "curves": curves,
            "seconds": [seconds(run) for run in runs],
            "commits": sorted({noted(run)["commit"] for run in runs}),
        }
    return found


def draw(found: dict[str, Any], out: Path) -> None:
    """Returns over steps, online and offline; one thin line per seed, their mean thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="compressed")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind in zip(axes, ("online", "offline"), strict=True):
        names = [name for name in found if name.startswith(kind)]
        for name in names:
            steps = [step for step, _ in found[name]["curves"][0]]
            values = np.array([[v for _, v in points] for points in found[name]["curves"]])
            colour = f"C{ONLINE.index(name.removeprefix(kind + ' '))}"
            axis.plot(steps, values.T, color=colour, lw=0.6, alpha=0.6)
            axis.plot(steps, values.mean(0), color=colour, lw=2.2, label=name)
        axis.axhline(BOUND, color="gray", ls=":", lw=1)
        axis.set_title(kind)
        axis.set_xlabel("agent step" if kind == "online" else "update")
        axis.legend(loc="lower right")
    axes[1].axvline(MODEL_UPDATES, color="gray", ls="--", lw=1)
    axes[0].set_ylabel("mean return of 20 episodes")
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/pendulum"))
    parser.add_argument("--out", type=Path, default=Path(os.path.relpath(HERE)))
    args = parser.parse_args()
    folders: dict[str, list[Path]] = {}
    data = str(args.runs / "sac_0")
    for seed in args.seeds:
        for preset in ONLINE:
            folders.setdefault(f"online {preset}", []).append(args.runs / f"{preset}_{seed}")
            play(args.runs / f"{preset}_{seed}", configuration(preset, seed))
    for seed in args.seeds:
        for preset in OFFLINE:
            folder = args.runs / f"offline_{preset}_{seed}"
            folders.setdefault(f"offline {preset}", []).append(folder)
            play(folder, configuration(preset, seed, data))
    found = results(folders)
    told = {"bound": BOUND, "machine": describe_machine(), "methods": found}
    (args.out / "results.json").write_text(json.dumps(told, indent=1) + "\n")
    draw(found, args.out / "returns.png")
    for name, one in found.items():
        final = ", ".join(f"{value:.0f}" for value in one["final"])
        print(f"{name:20} mean {one['mean']:.0f}, worst {one['worst']:.0f} ({final})")


if __name__ == "__main__":
    sys.exit(main())
