"""`worldmodels replay inspect|verify|export RUN`: what a run's replay holds on disk."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldmodels.cli.arguments import Parser
from worldmodels.cli.run_folders import find_run
from worldmodels.cli.tables import print_table
from worldmodels.config_file import load_config_file
from worldmodels.envs.registry import task_names
from worldmodels.errors import UserError, near

ACTIONS = {
    "inspect": "count rows, episodes and tasks, and say what they take",
    "verify": "read every file again and compare its checksum",
    "export": "write all whole episodes as a Minari data set",
}


def run(argv: list[str]) -> None:
    """The command."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: worldmodels replay ACTION RUN [OPTIONS]\n\nactions:")
        print("\n".join(f"  {name:8} {text}" for name, text in ACTIONS.items()))
        return
    action, rest = argv[0], argv[1:]
    if action not in ACTIONS:
        advice = near(action, ACTIONS) or f"; there are {', '.join(ACTIONS)}"
        raise UserError(f"no action '{action}'{advice}")
    parser = Parser(f"replay {action}", ACTIONS[action].capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="a run folder")
    if action == "inspect":
        parser.add_argument("--json", action="store_true", help="print JSON")
    if action == "export":
        parser.add_argument("--out", required=True, metavar="FOLDER", help="the new data set")
    args = parser.read(rest)
    folder = find_run(args.run)
    from worldmodels.replay.folder import ReplayFolder  # numpy and torch, only now

    replay = ReplayFolder(folder)
    if action == "inspect":
        _inspect(replay, folder, args.json)
    elif action == "verify":
        _verify(replay)
    else:
        _export(replay, folder, Path(args.out))


def _inspect(replay: Any, folder: Path, as_json: bool) -> None:
    tasks = task_names(load_config_file(folder / "config.yaml").env)
    counted: dict[str, Counter[str]] = {"on disk": Counter()}
    held = replay.held()
    episodes = total = 0
    for piece in replay.pieces():
        found = Counter(tasks[i] for i in piece.rollout.task.tolist())
        counted["on disk"] += found
        for part, segments in held.items():
            counted.setdefault(part, Counter())
            counted[part] += found if piece.first in segments else Counter()
        episodes += int(piece.rollout.flag("is_last").sum())
        total += piece.bytes
    facts = {
        "environment": replay.layout.spec.name,
        "lanes": replay.lanes,
        "rows": sum(counted["on disk"].values()),
        "segments": len(replay.entries),
        "rows without a segment": sum(tail.rows for tail in replay.tails),
        "ends of episodes": episodes,
        "MiB": round(total / 2**20, 1),
        "checkpoints": [directory.parent.name for directory in replay.checkpoints],
        "rows by task": {part: dict(found) for part, found in counted.items()},
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if name != "rows by task":
            print(f"{name:22} {', '.join(value) if isinstance(value, list) else value}")
    print_table(
        ("rows of", *counted),
        [[task, *(str(found[task]) for found in counted.values())] for task in tasks],
    )


def _verify(replay: Any) -> None:
    checked, wrong = 0, 0
    for what, complaint in replay.verify():
        checked += 1
        wrong += bool(complaint)
        if complaint:
            print(f"{what}: {complaint}")
    if wrong:
        raise UserError(f"{wrong} of {checked} files and checkpoints are damaged")
    print(f"{checked} files and checkpoints are what was written")


def _export(replay: Any, run: Path, out: Path) -> None:
    from worldmodels.offline.writing import write_minari

    spec = replay.layout.spec
    about = {
        "description": f"replay of a run in the environment {spec.name}",
        "worldmodels": {"environment": asdict(load_config_file(run / "config.yaml").env)},
    }
    episodes, steps = write_minari(out, spec, replay.episodes(), about)
    print(f"{episodes} episodes, {steps} steps: {out / 'data'}")
