"""How far back can each backbone remember? Command, result and reading: README.md beside this."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import torch
from probe import look

from worldmodels import Config, load_config, train
from worldmodels.agent import find_checkpoint
from worldmodels.bench.sizing import Row, Sized, equal_sizes
from worldmodels.envs.registry import make
from worldmodels.presets import load_preset
from worldmodels.runtime.rundir import commit, describe_machine

HERE = Path(__file__).parent
BACKBONES = ["gru", "rssm", "transformer", "mamba", "mamba2", "mamba3", "deltanet"]
LENGTHS = [2, 4, 8, 16, 32, 64]
PARAMETERS = 204_000
"""Of the world model, within 3 %; the width of the backbone is solved for."""
PRESET = "memory"
LEARNING_RATES = {"gru": 1e-3, "rssm": 1e-3}
"""Others: 3e-4, with which a stack keeps what it learned; README.md says what was tried."""
IMAGINED = 3
"""Steps of imagination; the choice is a single one."""
LEARNED = 0.9
"""Share of the last 100 training episodes from which the task counts as learned."""


def configuration(backbone: str, length: int, updates: int) -> Config:
    """All that grows with the length is time: rows of a window, and steps of as many episodes."""
    rows = 2 * (length + 2)  # a window of two episodes' rows holds a cue and its choice
    config = load_config(f"memory:tmaze-{length}", [PRESET], backbone=backbone)
    batch = config.replay.batch_size * rows
    first = batch * (length + 1) // (length + 2)  # steps that fill the first batch
    steps = first + round(updates * batch / config.train_ratio)
    return replace(
        config,
        device="cpu",
        threads=1,
        steps=steps,
        optimizer=replace(config.optimizer, learning_rate=LEARNING_RATES.get(backbone, 3e-4)),
        actor_critic=replace(config.actor_critic, imagination_length=IMAGINED, starts=0),
        replay=replace(config.replay, batch_length=rows),
        log=replace(config.log, every=max(1, steps // 40), tensorboard=False),
    )


def sized(length: int, updates: int) -> dict[str, Sized]:
    """Every backbone at equal size, by name."""
    configs = [configuration(name, length, updates) for name in BACKBONES]
    env = make(configs[0].env, seed=0)
    env.close()
    rows = [Row(config, env.spec, "x") for config in configs]
    return dict(zip(BACKBONES, equal_sizes(rows, PARAMETERS, exact=True), strict=True))


def run(task: Sized, length: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train, or go on with, one run; what its folder says of it."""
    began, resume = time.process_time(), (folder / "config.yaml").exists()
    config = replace(task.config, seed=seed)
    train(config, folder, resume=resume, quiet=True, command=shlex.join(["python", *sys.argv]))
    cpu = time.process_time() - began
    metrics = read_lines(folder / "metrics.jsonl")
    curve = [
        (line["train/updates"], success(line["score/recent_mean"]))
        for line in metrics
        if "score/recent_mean" in line
    ]
    state = torch.load(find_checkpoint(folder, "last") / "state.pt", weights_only=True)
    score = [line for line in read_lines(folder / "scores.jsonl") if line["kind"] == "eval"][-1]
    return {
        "length": length,
        "backbone": config.backbone.name,
        "seed": seed,
        "success": round(success(score["mean"]), 4),
        "episodes": score["episodes"],
        "learned_at": next((int(at) for at, share in curve if share >= LEARNED), None),
        "updates": state["updates"],
        "steps": score["step"],
        "parameters": task.parameters,
        task.option: task.width,
        "seconds": round(state["seconds"], 1),
        "cpu_seconds": None if resume else round(cpu, 1),
        "commit": commit(),
        **look(folder),
    }


def success(mean_return: float) -> float:
    """Share of episodes that ended on the cued side, from returns of +1 and -1."""
    return (mean_return + 1) / 2


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def finished(out: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of an earlier call; refuses those of other settings."""
    if not (out / "results.json").exists():
        return []
    results = json.loads((out / "results.json").read_text())
    for key in ("settings", "updates"):
        if results[key] != header[key]:
            raise SystemExit(f"{out}/results.json is of other {key}: give another --out")
    return results["runs"]


def write(out: Path, header: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """results.json, in the order of length, backbone and seed, whole at any time."""
    runs.sort(key=lambda r: (r["length"], BACKBONES.index(r["backbone"]), r["seed"]))
    lines = ",\n  ".join(json.dumps(r) for r in runs)
    head = json.dumps(header, indent=1).removesuffix("\n}")
    (out / "results.json.new").write_text(f'{head},\n "runs": [\n  {lines}\n ]\n}}\n')
    (out / "results.json.new").replace(out / "results.json")


def scores(runs: Iterable[dict[str, Any]], backbone: str, length: int) -> list[float]:
    return [r["success"] for r in runs if (r["backbone"], r["length"]) == (backbone, length)]


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: every seed's success (update at which it was learned; the cue's share of h)."""
    lengths = sorted({r["length"] for r in runs})
    lines = ["| backbone | " + " | ".join(f"L = {n}" for n in lengths) + " | CPU s per run |"]
    lines.append("|---" * (len(lengths) + 2) + "|")
    for name in BACKBONES:
        own = [r for r in runs if r["backbone"] == name]
        cells = [", ".join(cell(r) for r in own if r["length"] == n) or "-" for n in lengths]
        took = [r["cpu_seconds"] for r in own if r["cpu_seconds"] is not None]
        cells.append(f"{min(took):.0f} to {max(took):.0f}" if took else "-")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(r: dict[str, Any]) -> str:
    """As `table` says."""
    return f"{r['success']:.2f} ({r['learned_at'] or '-'}; {r['cue_share_of_h']:.2f})"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Success over length, a line a backbone: the mean of its seeds and their range."""
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for i, name in enumerate(BACKBONES):
        by_length = {n: found for n in LENGTHS if (found := scores(runs, name, n))}
        if not by_length:
            continue
        middle = [mean(found) for found in by_length.values()]
        below = [m - min(found) for m, found in zip(middle, by_length.values(), strict=True)]
        above = [max(found) - m for m, found in zip(middle, by_length.values(), strict=True)]
        x = [n * 1.03 ** (i - len(BACKBONES) // 2) for n in by_length]  # equal lines stay apart
        axis.errorbar(x, middle, [below, above], marker="o", ms=4, capsize=2, label=name)
    axis.axhline(0.5, color="grey", ls=":", lw=1, label="no memory")
    axis.set(xscale="log", ylim=(0, 1.05), xlabel="L, steps from the cue to the choice")
    axis.set_ylabel("success rate, 100 episodes")
    lengths = sorted({r["length"] for r in runs})
    axis.set_xlim(lengths[0] / 1.3, lengths[-1] * 1.3)
    axis.set_xticks(lengths, [str(n) for n in lengths])
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a core each")
    parser.add_argument("--out", type=Path, default=HERE, help="of results.json and the plot")
    parser.add_argument("--runs", type=Path, default=Path("runs/tmaze"), help="of the run folders")
    options = parser.parse_args()
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(),
        "updates": options.updates,
        "settings": load_preset(PRESET)
        | {"imagination_length": IMAGINED, "learning_rates": LEARNING_RATES | {"others": 3e-4}},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    runs = finished(options.out, header)
    done = {(r["length"], r["backbone"], r["seed"]) for r in runs}
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = []
        for seed in options.seeds:
            for length in options.lengths:
                tasks = sized(length, options.updates)
                for name in options.backbones:
                    if (length, name, seed) not in done:
                        folder = options.runs / f"{length}-{name}-{seed}"
                        waiting.append(pool.submit(run, tasks[name], length, seed, folder))
        try:
            for future in as_completed(waiting):
                runs.append(future.result())
                write(options.out, header, runs)
                shown = ("length", "backbone", "seed", "success", "learned_at", "cpu_seconds")
                print(*(f"{key} {runs[-1][key]}" for key in shown), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what runs is saved by its own Ctrl-C
            raise
    print(table(runs))
    plot(runs, options.out / "success.png")


if __name__ == "__main__":
    main()
