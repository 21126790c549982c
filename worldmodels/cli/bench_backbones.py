"""`worldmodels bench backbones [ENV]`: equally large backbones in speed, memory and prediction."""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldmodels.cli.arguments import Parser, count
from worldmodels.cli.tables import print_table
from worldmodels.config import Config
from worldmodels.errors import UserError
from worldmodels.files import unwritable
from worldmodels.presets import choose_config
from worldmodels.registry import backbone_names

POSTERIORS = ("x", "hx", "none")
QUICK: dict[str, Any] = {
    "preset": ["debug"],
    "lengths": [4, 8],
    "batches": [2],
    "hx_length": 4,
    "starts": 8,
    "repeats": 1,
    "rows": 400,
    "updates": 2,
    "context": 3,
    "horizon": 4,
    "windows": 8,
    "samples": 2,
    "seeds": [0],
}
"""Everything runs, in seconds; the numbers mean nothing."""


def run(argv: list[str]) -> None:
    """The command."""
    args = _parser("--quick" in argv).read(argv)
    configs = _configs(args)
    folder = _make_folder(args.out or f"runs/bench/backbones-{time.strftime('%Y%m%d-%H%M%S')}")

    from worldmodels.bench.backbones import bench_backbones  # torch, only now
    from worldmodels.bench.page import describe
    from worldmodels.bench.results import write_results

    replay = Path(args.replay) if args.replay else folder / "replay.npz"
    command = shlex.join(["worldmodels", "bench", "backbones", *argv])
    report = {"command": command, **bench_backbones(configs, _plan(args), replay, _say)}
    shown = write_results(report, folder)
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for table in shown:
        print(f"\n{table.title}\n{table.note}")
        print_table(table.header, table.rows)
    print(f"\n{describe(report)}\n{folder}: index.html, results.json and the plots")


def _configs(args: argparse.Namespace) -> list[Config]:
    """One configuration per backbone, named ones before paths; they differ in nothing else."""
    paths = [name for name in args.backbone if ":" in name]
    names = [name for name in args.backbone if name not in paths] or backbone_names()
    chosen = [
        choose_config(args.env, args.preset, args.config, name, device=args.device).config
        for name in dict.fromkeys(names + paths)
    ]
    return [replace(config, device=args.device, precision=args.precision) for config in chosen]


def _plan(args: argparse.Namespace) -> Any:
    from worldmodels.bench.backbones import Plan
    from worldmodels.bench.prediction import Exam
    from worldmodels.bench.speed import SpeedPlan

    speed = SpeedPlan(
        lengths=_ordered(args.lengths),
        batches=_ordered(args.batches),
        hx_length=args.hx_length,
        starts=args.starts,
        repeats=args.repeats,
    )
    exam = Exam(
        updates=args.updates,
        context=args.context,
        horizon=args.horizon,
        windows=args.windows,
        samples=args.samples,
        seeds=_ordered(args.seeds),
    )
    timed, learning = _posteriors(args, "speed"), _posteriors(args, "prediction")
    if not timed + learning:
        raise UserError("--speed none --prediction none leaves nothing to measure")
    near = args.parameters or (100_000 if args.quick else 1_000_000)
    return Plan(near, bool(args.parameters), speed, timed, args.rows, exam, learning)


def _posteriors(args: argparse.Namespace, option: str) -> tuple[Any, ...]:
    given = getattr(args, option)
    if "none" in given and len(given) > 1:
        raise UserError(f"--{option} is none, or a choice of x and hx, not '{' '.join(given)}'")
    return tuple(name for name in POSTERIORS[:-1] if name in given)


def _ordered(numbers: list[int]) -> tuple[int, ...]:
    return tuple(sorted(set(numbers)))


def _make_folder(path: str) -> Path:
    """Made before anything is measured, so that nothing is measured in vain."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable("results", folder, error) from error
    return folder


def _parser(quick: bool) -> Parser:
    parser = Parser(
        "bench backbones",
        "Compare sequence backbones whose world models have equally many parameters: time, memory, "
        "and what they predict of one recorded replay after equally many updates.",
    )
    add = parser.add_argument
    names = ", ".join(backbone_names())
    add(
        "env",
        nargs="?",
        default="memory:catch",
        metavar="ENV",
        help="environment (default: memory:catch)",
    )
    add(
        "--backbone",
        nargs="+",
        metavar="NAME",
        action="extend",
        default=[],
        help=f"names (default: {names}); a path file.py:Class or package.module:Class joins them",
    )
    add("--preset", nargs="+", metavar="NAME", help="presets (default: those of ENV)")
    add("--config", metavar="FILE", help="YAML file of options, over the presets")
    add(
        "--parameters",
        type=count,
        metavar="N",
        help="of every world model, within 3%%; the backbone's width is solved for "
        "(default: the total nearest to 1,000,000 at which every backbone has a width)",
    )
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto", choices=("auto", "32", "bf16"))
    add(
        "--out",
        metavar="FOLDER",
        help="results.json, PNG plots and index.html (default: runs/bench/backbones-TIME)",
    )
    add("--json", action="store_true", help="print JSON")
    add("--quick", action="store_true", help="try out: seconds, and numbers without meaning")
    speed = parser.add_argument_group("speed and memory")
    add = speed.add_argument
    add(
        "--speed",
        nargs="+",
        choices=POSTERIORS,
        default=["x", "hx"],
        help="posteriors that are timed, or none (default: x hx)",
    )
    _numbers(speed, "--lengths", [16, 64, 256, 1024], "rows of time T")
    _numbers(speed, "--batches", [2, 8], "sequences in a batch B")
    _number(speed, "--hx-length", 64, "longest T for posterior hx, a loop for every backbone")
    _number(speed, "--starts", 1024, "rows imagined at a time")
    _number(speed, "--repeats", 3, "measurements, in turn over the backbones; medians count")
    learn = parser.add_argument_group("prediction")
    add = learn.add_argument
    add(
        "--prediction",
        nargs="+",
        choices=POSTERIORS,
        default=["x"],
        help="posteriors that learn, or none (default: x)",
    )
    add(
        "--replay",
        metavar="FILE",
        help="recorded replay; is recorded where there is none (default: replay.npz in --out)",
    )
    _number(learn, "--rows", 20_000, "rows to record, of random play")
    _number(learn, "--updates", 400, "updates of every world model")
    _number(learn, "--context", 16, "rows observed before imagining")
    _number(learn, "--horizon", 15, "rows imagined")
    _number(learn, "--windows", 512, "held-out windows")
    _number(learn, "--samples", 8, "imagined futures per window, averaged")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    if quick:
        parser.set_defaults(**QUICK)
    return parser


def _number(group: argparse._ArgumentGroup, flag: str, default: int, text: str) -> None:
    group.add_argument(
        flag, type=count, default=default, metavar="N", help=f"{text} (default: {default})"
    )


def _numbers(group: argparse._ArgumentGroup, flag: str, default: list[int], text: str) -> None:
    group.add_argument(
        flag,
        nargs="+",
        type=count,
        default=default,
        metavar="N",
        help=f"{text} (default: {' '.join(map(str, default))})",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
