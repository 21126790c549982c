"""`worldmodels runs [DIR]`: the run folders, newest first."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from worldmodels.cli.arguments import Parser
from worldmodels.cli.run_folders import ROOT, RunSummary, run_folders, summarise
from worldmodels.cli.tables import print_table
from worldmodels.errors import UserError

_COLUMNS = ("run", "environment", "backbone", "status", "step", "score", "MiB", "when")


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser("runs", "List the run folders under DIR.")
    parser.add_argument("dir", nargs="?", default=str(ROOT), metavar="DIR", help="default: runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.read(argv)
    root = Path(args.dir)
    if not root.is_dir() and args.dir != str(ROOT):
        raise UserError(f"there is no folder {root}")
    found = [summarise(folder) for folder in run_folders(root)]
    found.sort(key=lambda summary: summary.modified, reverse=True)
    if args.json:
        print(json.dumps([asdict(summary) for summary in found], indent=1))
    elif found:
        print_table(_COLUMNS, [_row(summary) for summary in found])
    else:
        print(f"no runs under {root}; `worldmodels train catch` makes one")


def _row(summary: RunSummary) -> list[str]:
    step = "?" if summary.step is None else f"{summary.step}/{summary.steps}"
    return [
        summary.path,
        summary.env or "?",
        summary.backbone or "?",
        summary.status or "?",
        step,
        "-" if summary.score is None else f"{summary.score:.3f}",
        f"{summary.mebibytes:.1f}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.modified)),
    ]
