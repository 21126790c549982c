"""Does a run suffer from edge-of-reach? Its own logs and evaluations, put together in one line.

Imagined returns bootstrap from states where no critic learns (Sims et al. 2024, arXiv 2402.12527).
That alone is no harm; it is one where the critic also believes in more than the policy then gets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.curves import read_lines
from worldmodels.report.tables import Table

FAR = 0.2
"""Share of bootstraps far from all critic inputs from which on many are; 0.05 is usual."""
TOO_MUCH = 0.5
"""Belief beyond the realised return that is overestimation, in units of the larger of both, or of
the scale of returns where that is larger still; it is also more than two standard errors."""
LAST = 0.1
"""Share of a run, its end, over which logs are averaged."""
NAMES = ("far", "value_inside", "value_edge", "spread_inside", "spread_edge")


def reach(folder: Path) -> dict[str, Any] | None:
    """The curves and the verdict of one run; None where it logged nothing of the kind."""
    if not (folder / "metrics.jsonl").is_file():
        return None
    logged = [row for row in read_lines(folder / "metrics.jsonl") if "behaviour/reach/far" in row]
    if not logged:
        return None
    scores = read_lines(folder / "scores.jsonl")
    played = [
        row for row in scores if row.get("kind") == "eval" and row.get("believed") is not None
    ]
    end = logged[-max(1, round(LAST * len(logged))) :]
    found: dict[str, Any] = {
        name: float(np.mean([row[f"behaviour/reach/{name}"] for row in end])) for name in NAMES
    }
    last = [row for row in played if row["step"] == played[-1]["step"]]  # every task of a stream
    for name in ("believed", "discounted"):
        found[name] = float(np.mean([row[name] for row in last])) if last else None
    scale = float(np.mean([row.get("behaviour/return_scale", 1.0) for row in end]))
    least = max(scale * TOO_MUCH, 2 * _error(last))
    return {
        "run": str(folder),
        **found,
        "verdict": verdict(found["far"], found["believed"], found["discounted"], least),
        "steps": [row["step"] for row in logged],
        "curves": {n: [row[f"behaviour/reach/{n}"] for row in logged] for n in NAMES},
        "played": [[row["step"], row["believed"], row["discounted"]] for row in played],
    }


def _error(rows: Sequence[dict[str, Any]]) -> float:
    """Standard error of the mean return over the tasks' evaluations."""
    squares = [row["std"] ** 2 / row["episodes"] for row in rows]
    return float(np.sqrt(np.sum(squares)) / max(len(rows), 1))


def verdict(far: float, believed: float | None, discounted: float | None, least: float) -> str:
    """One line; the thresholds are ours. Less than `least` is no overestimation."""
    if believed is None or discounted is None:
        return "unknown: no evaluation notes what the critic believed"
    size = max(abs(believed), abs(discounted))
    too_much = believed - discounted > max(TOO_MUCH * size, least)
    if far > FAR and too_much:
        return (
            "suffers from edge-of-reach: it bootstraps where no critic learns and believes in "
            "more than it gets; docs/values.md says what may help"
        )
    if too_much:
        return "overestimates, but not at the edge of reach: look at the model or the critic"
    if far > FAR:
        return "bootstraps beyond its reach, but its values hold"
    return "does not suffer from edge-of-reach"


def reach_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row per run."""
    return Table(
        "Edge of reach",
        f"Means over the last {LAST:.0%} of a run. Far: share of imagined bootstraps at states far "
        "from everything the critic learns at (about 0.05 is usual). Believed: the critic's value "
        "of first observations; got: the discounted return that followed.",
        ("run", "far", "value inside / edge", "spread inside / edge", "believed", "got", "verdict"),
        [
            [
                row["run"],
                f"{row['far']:.2f}",
                f"{row['value_inside']:.3g} / {row['value_edge']:.3g}",
                f"{row['spread_inside']:.2g} / {row['spread_edge']:.2g}",
                *("-" if row[n] is None else f"{row[n]:.3g}" for n in ("believed", "discounted")),
                row["verdict"],
            ]
            for row in rows
        ],
    )


def draw_reach(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """`reach.png`: three panels, a colour per run; returns it by its caption."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    share, values, spreads = figure.subplots(1, 3)
    for i, row in enumerate(rows):
        color, curves = f"C{i % 10}", row["curves"]
        share.plot(row["steps"], curves["far"], color=color, label=Path(row["run"]).name)
        values.plot(row["steps"], curves["value_edge"], color=color, label="at the edge")
        if row["played"]:
            steps, believed, got = zip(*row["played"], strict=True)
            values.plot(steps, believed, "o", color=color, mfc="none", label="believed at first")
            values.plot(steps, got, "x", color=color, label="discounted return that followed")
        spreads.plot(row["steps"], curves["spread_inside"], "--", color=color, label="inside")
        spreads.plot(row["steps"], curves["spread_edge"], color=color, label="at the edge")
    share.axhline(FAR, color="grey", lw=0.8, ls=":")
    share.set_ylim(0, 1)
    share.set_title("share of bootstraps far from all critic inputs")
    values.set_title("value against what was got")
    spreads.set_title("deviation over the critics")
    for axis in (share, values, spreads):
        handles, labels = axis.get_legend_handles_labels()
        first = dict(zip(reversed(labels), reversed(handles), strict=True))
        axis.legend(first.values(), first.keys(), fontsize=7)
        axis.set_xlabel("agent steps")
        axis.grid(alpha=0.3)
    out = folder / "reach.png"
    figure.savefig(out, dpi=110)
    return {"Edge of reach": out}
