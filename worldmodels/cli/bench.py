"""`worldmodels bench NAME`: measure a part of the framework on this machine."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldmodels.cli import bench_backbones, bench_kernels
from worldmodels.cli.arguments import Parser
from worldmodels.cli.choices import Choices, choose, read_choices
from worldmodels.cli.options import apply_flags
from worldmodels.cli.tables import print_table
from worldmodels.errors import UserError, near


@dataclass(frozen=True)
class UpdateChoices(Choices):
    """Time one update of the learner, part by part."""

    repeats: int = 7
    """Updates measured, each paired with one 2048^3 float32 matrix product."""
    json: bool = False
    """Print JSON, the machine and the commit included."""


def run(argv: list[str]) -> None:
    """The command."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = (f"  {name:10} {text}" for name, (_, text) in BENCHES.items())
        print("usage: worldmodels bench NAME [OPTIONS]\n\nbenches:\n" + "\n".join(lines))
    elif argv[0] in BENCHES:
        BENCHES[argv[0]][0](argv[1:])
    else:
        advice = near(argv[0], BENCHES) or f"; there are {', '.join(BENCHES)}"
        raise UserError(f"unknown bench '{argv[0]}'{advice}")


def _update(argv: list[str]) -> None:
    """Without ENV on 64x64x3 images and the 6 actions of Pong."""
    choices, request = read_choices(argv, "bench update", UpdateChoices)
    if choices.repeats < 1:
        raise UserError(f"--repeats is at least 1, not {choices.repeats}")
    chosen = choose(choices, request, default_env="atari:Pong")
    config = apply_flags(chosen, request, "bench update", choices)

    from worldmodels.bench.update import bench_update  # torch, only now

    command = shlex.join(["worldmodels", "bench", "update", *argv])
    report = {"command": command, **bench_update(config, choices.repeats)}
    if choices.json:
        print(json.dumps(report, indent=1))
        return
    print("\n".join(chosen.notes))
    print(", ".join(f"{name} {value}" for name, value in report["config"].items()))
    rows = {**report["sections"], "whole update": {**report, "share": 1.0}}
    print_table(("part", "ms", "CPU ms", "GFLOP", "share"), [_row(*item) for item in rows.items()])
    print(
        f"{report['units']:.1f} units of {1000 * report['unit_seconds']:.1f} ms (a 2048^3 float32 "
        f"matrix product here) on {report['device']}, {report['threads']} threads"
    )
    cores, load = report["machine"]["cores"], report["load_before"]
    if load and load > cores / 2:
        print(f"the machine was busy before (load {load:.1f} on {cores} cores): measure again")
    print(f"peak memory {report['peak_gib']:.2f} GiB", end="")
    print(f", on the GPU {report['peak_gpu_gib']:.2f} GiB" if "peak_gpu_gib" in report else "")


def _row(name: str, part: dict[str, Any]) -> list[str]:
    milliseconds = (f"{1000 * part[key]:.1f}" for key in ("seconds", "cpu_seconds"))
    return [name, *milliseconds, f"{part['flops'] / 1e9:.2f}", f"{100 * part['share']:.0f}%"]


def _replay(argv: list[str]) -> None:
    parser = Parser("bench replay", "Sample batches of image rows against numpy's plain copy.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.read(argv)

    from worldmodels.bench.replay import bench_replay  # torch, only now
    from worldmodels.runtime.rundir import describe_machine

    report = {"machine": describe_machine(), "cases": bench_replay()}
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print_table(
        ("tier", "retention", "carry", "batch", "batches/s", "numpy/s", "ratio", "added/s", "MiB"),
        [_replay_row(case) for case in report["cases"]],
    )


def _replay_row(case: dict[str, Any]) -> list[str]:
    coin = "" if case["coin"] == "batch" else ", coin a row"
    return [
        case["storage"],
        case["retention"] + coin,
        case["carry"],
        f"{case['batch']} x {case['length']}",
        f"{case['batches_per_second']:.0f}",
        f"{case['numpy_batches_per_second']:.0f}",
        f"{case['ratio']:.2f}",
        f"{case['add_rows_per_second']:.0f}",
        f"{case['mebibytes']:.0f}",
    ]


BENCHES: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "update": (_update, "one update of the learner, part by part ([ENV] [OPTIONS] as for train)"),
    "replay": (_replay, "sampling batches from the replay"),
    "kernels": (bench_kernels.run, "operators over time: every implementation"),
    "backbones": (bench_backbones.run, "equally large backbones: speed, memory, prediction"),
}
"""Name -> (function, one line of help)."""
