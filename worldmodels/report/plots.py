"""The plots of `worldmodels report`; matplotlib is imported when the first one is drawn."""

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart under all common colour blindness. Source: Okabe and Ito 2008, without its yellow."""
DASHES = ("-", "--", "-.", ":")


def draw_continual(report: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the PNG files of a comparison; returns them by the sentence that says what they are."""
    return {
        "Median normalised score of every task over time; training on it is outlined": _save(
            _heat_maps(report), folder / "heatmap.png"
        ),
        "Median and interquartile range over seeds; training on a task is shaded": _save(
            _curves(report), folder / "curves.png"
        ),
    }


def draw_learning(curves: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Write the PNG of ordinary runs: mean return at every evaluation, a panel per task."""
    return {
        "Mean return of every evaluation": _save(_learning(curves), folder / "learning.png"),
    }


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _heat_maps(report: dict[str, Any]) -> Any:
    """A panel per method; rows are tasks, columns reach from one evaluation to the next."""
    methods, tasks = report["methods"], report["tasks"]
    figure = _figure(9.5, 0.9 + len(methods) * (0.75 + 0.42 * len(tasks)))
    axes = figure.subplots(len(methods), 1, squeeze=False, sharex=True)[:, 0]
    scores = [np.array(one["curves"]["median"]) for one in methods.values()]
    ends = min(map(np.min, scores)), max(map(np.max, scores))
    mesh = None
    for axis, (name, one), q in zip(axes, methods.items(), scores, strict=True):
        mesh = _heat_map(axis, tasks, one["curves"], q)
        axis.set_title(name, loc="left", fontsize=11)
    axes[-1].set_xlabel("agent steps")
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    bar = figure.colorbar(
        mesh, ax=axes, extend=beyond.get((ends[0] < 0, ends[1] > 1), "neither"), aspect=30
    )
    bar.set_label("normalised score (0 random, 1 reference)")
    return figure


def _heat_map(axis: Any, tasks: list[str], curves: dict[str, Any], q: np.ndarray) -> Any:
    from matplotlib.patches import Rectangle

    steps = np.array(curves["steps"])
    before = steps[1] - steps[0] if len(steps) > 1 else 1  # the evaluation at step 0 has a column
    edges = np.concatenate([[steps[0] - before], steps])
    mesh = axis.pcolormesh(edges, np.arange(len(tasks) + 1), q, cmap="viridis", vmin=0, vmax=1)
    for exposure in curves["exposures"]:
        row = tasks.index(exposure["task"])
        width = exposure["last"] - exposure["first"]
        for colour, line in (("black", 4.0), ("white", 1.8)):  # seen on dark and on bright
            box = (exposure["first"], row + 0.05)
            axis.add_patch(Rectangle(box, width, 0.9, fill=False, edgecolor=colour, linewidth=line))
    axis.set_yticks(np.arange(len(tasks)) + 0.5, tasks)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    final = axis.secondary_yaxis("right")
    final.set_yticks(np.arange(len(tasks)) + 0.5, [f"{row[-1]:.2f}" for row in q])
    final.tick_params(length=0)
    axis.set_title("at the end", loc="right", fontsize=9)
    _thousands(axis)
    return mesh


def _curves(report: dict[str, Any]) -> Any:
    """A panel per task."""
    methods, tasks = report["methods"], report["tasks"]
    figure = _figure(9.5, 1.0 + 1.75 * len(tasks))
    axes = figure.subplots(len(tasks), 1, squeeze=False, sharex=True)[:, 0]
    exposures = next(iter(methods.values()))["curves"]["exposures"]
    for row, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        for exposure in exposures:
            if exposure["task"] == task:
                axis.axvspan(exposure["first"], exposure["last"], color="0.9", lw=0, zorder=0)
            if exposure is not exposures[-1]:
                axis.axvline(exposure["last"], color="0.45", lw=0.9, ls=(0, (4, 3)), zorder=1)
        for level in (0, 1):
            axis.axhline(level, color="0.6", lw=0.7, zorder=1)
        for place, (name, one) in enumerate(methods.items()):
            curves, style = one["curves"], _style(place)
            axis.plot(curves["steps"], curves["median"][row], label=_label(name, one), **style)
            axis.fill_between(
                curves["steps"],
                curves["q25"][row],
                curves["q75"][row],
                color=style["color"],
                alpha=0.18,
                lw=0,
            )
        axis.set_title(task, loc="left", fontsize=10)
        axis.margins(x=0)
        low, high = (
            axis.get_ylim()
        )  # a panel of its own scale: one task at 6 would flatten the rest
        axis.set_ylim(min(low, -0.15), max(high, 1.15))
        _thousands(axis)
    axes[-1].set_xlabel("agent steps")
    figure.supylabel("normalised score (0 random, 1 reference)", fontsize=10)
    _legend(figure, axes[0], len(methods))
    return figure


def _learning(curves: list[dict[str, Any]]) -> Any:
    tasks = list(dict.fromkeys(curve["task"] for curve in curves))
    runs = list(dict.fromkeys(curve["run"] for curve in curves))
    figure = _figure(9.5, 0.9 + 0.11 * len(runs) + 2.4 * len(tasks))  # the legend has two columns
    axes = figure.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for axis, task in zip(axes, tasks, strict=True):
        for curve in curves:
            if curve["task"] == task:
                style = _style(runs.index(curve["run"]))
                axis.plot(curve["steps"], curve["means"], marker=".", label=curve["run"], **style)
        axis.set_title(task, loc="left", fontsize=10)
        axis.set_xlim(left=0)
        axis.set_ylabel("mean return")
        axis.grid(alpha=0.3)
        _thousands(axis)
    axes[-1].set_xlabel("agent steps")
    _legend(figure, axes, 2)
    return figure


def _style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[(place % len(COLOURS) + place // len(COLOURS)) % len(DASHES)],
        "linewidth": 1.8,
    }


def _label(name: str, one: dict[str, Any]) -> str:
    seeds = len(one["runs"])
    return f"{name} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


def _legend(figure: Any, axes: Any, columns: int) -> None:
    """One legend above all panels, each line in it once."""
    lines: dict[str, Any] = {}
    for axis in np.atleast_1d(axes):
        handles, labels = axis.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside upper center",
        ncols=min(columns, 4),
        fontsize=9,
        frameon=False,
    )


def _thousands(axis: Any) -> None:
    axis.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
