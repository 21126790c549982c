"""`worldmodels eval RUN`: whole episodes with a trained agent."""

import json
import os
from pathlib import Path
from typing import Any

from worldmodels.cli.arguments import Parser, count
from worldmodels.cli.run_folders import find_run


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
    parser.add_argument("--json", action="store_true", help="print JSON, every return included")
    args = parser.read(argv)
    folder = find_run(args.run)

    from worldmodels.agent import Agent  # torch, only now
    from worldmodels.evaluation import evaluate

    agent = Agent.load(folder, args.checkpoint, args.device)
    scores = evaluate(agent, args.episodes, seed=args.seed, greedy=args.greedy, num_envs=args.envs)
    if args.json:
        print(json.dumps(scores))
    else:
        _print_scores(folder, scores, agent.spec.random_score, agent.spec.reference_score)
    _append(folder / "evaluations.jsonl", {"kind": "eval", **scores})


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add a line of its own, also after one that a kill tore."""
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def _print_scores(
    folder: Path, scores: dict[str, Any], random: float | None, reference: float | None
) -> None:
    policy = "most probable" if scores["greedy"] else "sampled"
    print(f"{folder} at step {scores['step']}: {scores['episodes']} episodes, actions {policy}")
    for name in ("mean", "std", "median", "min", "max"):
        print(f"  {name:10} {scores[name]:10.3f}")
    if scores["normalized"] is not None:
        print(f"  {'normalised':10} {scores['normalized']:10.3f}   ", end="")
        print(f"(random play {random:g} is 0, the reference {reference:g} is 1)")
