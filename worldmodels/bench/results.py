"""The files of a comparison: results.json, the plots and index.html."""

import json
from pathlib import Path
from typing import Any

from worldmodels.bench.page import write_page
from worldmodels.bench.plots import draw
from worldmodels.bench.tables import Table, tables
from worldmodels.files import unwritable, write_text


def write_results(report: dict[str, Any], folder: Path) -> list[Table]:
    """Write everything into `folder`; returns the tables."""
    shown = tables(report)
    try:
        write_text(folder / "results.json", json.dumps(report, indent=1) + "\n")
        write_page(folder / "index.html", report, shown, draw(report, folder))
    except OSError as error:
        raise unwritable("results", folder, error) from error
    return shown
