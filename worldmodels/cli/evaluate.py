"""`worldmodels eval RUN`: whole episodes with a trained agent."""

import json
import os
from pathlib import Path
from typing import Any

from worldmodels.cli.arguments import Parser, count
from worldmodels.cli.run_folders import find_run
from worldmodels.cli.tables import print_table
from worldmodels.config import EvaluationConfig

_COLUMNS = {
    "mean": "mean",
    "std": "std",
    "median": "median",
    "min": "min",
    "max": "max",
    "random": "random_score",
    "reference": "reference_score",
    "normalised": "normalized",
}
"""Columns of the table and their entries of a score; normalised: random is 0, reference is 1."""


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser("eval", "Play episodes with the agent of a run.")
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--episodes", type=count, default=100, help="whole episodes (100)")
    parser.add_argument("--greedy", action="store_true", help="take the most probable action")
    parser.add_argument("--seed", type=int, default=0, help="of environments and policy (0)")
    parser.add_argument("--envs", type=count, default=8, help="environments side by side (8)")
    parser.add_argument("--checkpoint", default="last", help="`last`, or the step of an older one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--json", action="store_true", help="print JSON, a line per task")
    args = parser.read(argv)
    folder = find_run(args.run)

    from worldmodels.agent import Agent  # torch, only now
    from worldmodels.evaluation import evaluate_all

    agent = Agent.load(folder, args.checkpoint, args.device)
    options = EvaluationConfig(episodes=args.episodes, envs=args.envs, greedy=args.greedy)
    rows = []
    for label, scores in evaluate_all(agent, options, args.seed):
        rows.append({"kind": "eval", "task": label, **scores})
        if args.json:
            print(json.dumps(rows[-1]), flush=True)
        _append(folder / "evaluations.jsonl", rows[-1])
    if not args.json:
        _print_scores(folder, rows)


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a line of its own, also after one that a kill tore."""
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def _print_scores(folder: Path, rows: list[dict[str, Any]]) -> None:
    """One line per task."""
    first = rows[0]
    policy = "most probable" if first["greedy"] else "sampled"
    print(f"{folder} at step {first['step']}: {first['episodes']} episodes, actions {policy}")
    table = [[row["task"], *(_shown(row[key]) for key in _COLUMNS.values())] for row in rows]
    print_table(("task", *_COLUMNS), table)


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"
