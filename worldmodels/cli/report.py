"""`worldmodels report RUN...`: tables and plots of finished runs; `--continual` for streams."""

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodels import __version__
from worldmodels.cli.arguments import Parser
from worldmodels.cli.run_folders import find_run, run_folders
from worldmodels.cli.tables import print_table
from worldmodels.errors import UserError

if TYPE_CHECKING:
    from worldmodels.report.table import RunScores
    from worldmodels.report.tables import Table

FOLDER = "report"


def run(argv: list[str]) -> None:
    """The command."""
    args = _parser().read(argv)
    named = (args.runs or []) + (args.continual or [])
    if not named:
        raise UserError(
            "which runs? give run folders or folders of runs, as `worldmodels report runs`"
        )
    if args.continual is None and (args.single_task or args.group_by):
        option = "--single-task" if args.single_task else "--group-by"
        raise UserError(f"{option} belongs to --continual; add that, or leave it out")
    command = shlex.join(["worldmodels", "report", *argv])
    report = {"command": command, "version": __version__}
    if args.continual is None:
        _ordinary(args, report, named)
    else:
        _continual(args, report, named)


def _continual(args: argparse.Namespace, report: dict[str, Any], named: list[str]) -> None:
    from worldmodels.report.plots import draw_continual
    from worldmodels.report.study import GROUP_BY, compare
    from worldmodels.report.tables import continual_tables

    runs, passed = _read(named, lambda run: len(run.table.exposures) > 1, "on one task only")
    alone, others = _read(
        args.single_task or [], lambda run: len(run.table.exposures) == 1, "on several tasks"
    )
    report |= compare(runs, alone, args.group_by or GROUP_BY)
    report["notes"] += passed + others
    tables = continual_tables(report)
    title = "Continual learning: " + " > ".join(report["order"])
    _answer(args, title, report, tables, lambda folder: draw_continual(report, folder))


def _ordinary(args: argparse.Namespace, report: dict[str, Any], named: list[str]) -> None:
    from worldmodels.report.learning import learning, learning_table
    from worldmodels.report.plots import draw_learning
    from worldmodels.report.reach import draw_reach, reach, reach_table

    runs, passed = _read(named, lambda run: True, "")
    report |= learning(runs)
    report["notes"] += passed
    reached = [found for run in runs if (found := reach(Path(run.path)))]
    report["reach"] = reached
    tables = [learning_table(report), *([reach_table(reached)] if reached else [])]

    def draw(folder: Path) -> dict[str, Path]:
        plots = draw_learning(report["curves"], folder)
        return plots | (draw_reach(reached, folder) if reached else {})

    _answer(args, "Runs", report, tables, draw)


def _answer(
    args: argparse.Namespace,
    title: str,
    report: dict[str, Any],
    tables: Sequence["Table"],
    draw: Callable[[Path], dict[str, Path]],
) -> None:
    """Write the files, then print the tables or the JSON."""
    from worldmodels.report.page import write_report

    folder = Path(args.out)
    files = write_report(folder, title, report, tables, draw)
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for table in tables:
        print(f"\n{table.title}\n{table.note}")
        print_table(table.header, table.rows)
    print("".join(f"\nnote: {note}" for note in report["notes"]))
    print(f"{folder}: {', '.join(files)}")


def _read(
    names: Sequence[str], fits: Callable[["RunScores"], bool], why: str
) -> tuple[list["RunScores"], list[str]]:
    """The runs in and below the folders; those found below that do not fit are noted."""
    from worldmodels.report.scores import read_run

    runs, passed = {}, []
    for name in names:
        folder = Path(name)
        below = [] if (folder / "config.yaml").is_file() else list(run_folders(folder))
        for path in below or [find_run(name)]:
            try:
                run = read_run(path)
            except UserError as error:
                if not below:
                    raise
                passed.append(f"Passed over: {error}")
                continue
            if below and not fits(run):
                passed.append(f"Passed over: {path} was trained {why}")
            else:
                runs[path.resolve()] = run
    if names and not runs:
        raise UserError(f"no run to report in {', '.join(names)}. {' '.join(passed)}".rstrip())
    return list(runs.values()), passed


def _parser() -> Parser:
    parser = Parser(
        "report",
        "Tables and plots from the evaluations of runs. RUN is a run folder, or a folder of runs "
        "and then every run below it.",
    )
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="ordinary runs: final and best scores, curves")
    add(
        "--continual",
        nargs="*",
        action="extend",
        metavar="RUN",
        help="runs on a stream of tasks: forgetting, transfer, heat map; methods side by side",
    )
    add(
        "--single-task",
        nargs="+",
        action="extend",
        metavar="RUN",
        help="runs on one task of the stream each, to normalise by",
    )
    add(
        "--group-by",
        action="append",
        metavar="OPTION",
        help="option that tells methods apart; repeatable (default: replay.retention)",
    )
    add("--out", default=FOLDER, metavar="FOLDER", help=f"default: {FOLDER}")
    add("--json", action="store_true", help="print JSON")
    return parser
