"""What the runs say, as numbers: medians over seeds, and every seed's own."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

SHOWN, LONG_SHOWN = (600, 1200, 2400), (1000, 2000, 3000)
"""Updates at which runs are compared, beside the last."""


def grouped(found: list[dict[str, Any]], study: str) -> dict[str, list[dict[str, Any]]]:
    """The runs of a study by method, in the order of the plan."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in found:
        if run["study"] == study:
            groups[run["method"]].append(run)
    return dict(groups)


def at(run: dict[str, Any], update: int) -> dict[str, float] | None:
    """What was measured after `update` updates."""
    return next((row for row in run["curve"] if row["update"] == update), None)


def summary(runs: list[dict[str, Any]], update: int) -> dict[str, Any] | None:
    """Medians over the seeds, and the returns themselves."""
    rows = [row for row in (at(run, update) for run in runs) if row is not None]
    if len(rows) < len(runs):
        return None
    medians = {key: round(median(row[key] for row in rows), 3) for key in rows[0]}
    return {**medians, "returns": [round(row["return"], 2) for row in rows]}


def write_tables(found: list[dict[str, Any]], machine: dict[str, Any], file: Path) -> None:
    """The studies of `found` in `results.json`, beside what is there, and on the screen."""
    told = json.loads(file.read_text()) if file.exists() else {}
    for study in dict.fromkeys(run["study"] for run in found):
        groups = grouped(found, study)
        commits = sorted({run["commit"] for runs in groups.values() for run in runs})
        methods = {method: shown(study, runs) for method, runs in groups.items()}
        told[study] = {"machine": machine, "commits": commits, "methods": methods}
        for method, rows in methods.items():
            for update, row in rows.items():
                print(line(study, method, update, row))
    file.write_text(json.dumps(told, indent=1) + "\n")


def shown(study: str, runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is told of one method, by update."""
    at_these = LONG_SHOWN if study in ("plane", "off_policy") else SHOWN
    updates = {*at_these, runs[0]["curve"][-1]["update"]}
    rows = {str(update): summary(runs, update) for update in sorted(updates)}
    return {update: row for update, row in rows.items() if row is not None}


def line(study: str, method: str, update: str, row: dict[str, Any]) -> str:
    """One row of a Markdown table."""
    returns = " ".join(f"{value:.1f}" for value in row["returns"])
    cells = [study, method, update, returns, f"{row['return']:.1f}"]
    keys = ("value_start", "true_start", "max_edge", "edge")  # a learned model has no truth
    cells += [f"{row[key]:.2f}" if key in row else "-" for key in keys]
    return f"| {' | '.join(cells)} |"
