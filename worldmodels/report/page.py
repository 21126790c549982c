"""The files of a report: report.md, metrics.json and the plots."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worldmodels.errors import UserError
from worldmodels.files import write_text
from worldmodels.report.tables import Table

Draw = Callable[[Path], dict[str, Path]]


def write_report(
    folder: Path, title: str, report: dict[str, Any], shown: Sequence[Table], draw: Draw
) -> list[str]:
    """Write everything into `folder`; returns the names of the files.

    `draw` writes the plots and returns them by caption. UserError where the folder cannot be
    written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots = draw(folder)
        write_text(folder / "metrics.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
        write_text(folder / "report.md", _page(title, report, shown, plots))
    except OSError as error:
        raise UserError(
            f"cannot write the report in {folder} ({error.strerror}); choose another folder with "
            "--out"
        ) from error
    return ["report.md", "metrics.json", *(path.name for path in plots.values())]


def _page(
    title: str, report: dict[str, Any], shown: Sequence[Table], plots: dict[str, Path]
) -> str:
    parts = [f"# {title}", f"`{report['command']}`, worldmodels {report['version']}"]
    parts += map(_table, shown)
    parts += [f"## {caption}\n\n![{caption}]({path.name})" for caption, path in plots.items()]
    notes = report["notes"]
    parts += ["## Notes\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return f"## {table.title}\n\n{table.note}\n\n{text}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
