"""Pictures of the study: returns, value against truth, and where policies spend their time."""

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from off_policy import BOUND
from tables import grouped

from worldmodels.envs.reach_config import ReachConfig

BEST, PLANE_BEST, EDGE = 12.5, 11.0, ReachConfig().edge
PAIRS = ("plain", "oracle", "min+prior", "ravl")
"""Methods whose values and footprints are shown."""


def draw(found: list[dict[str, Any]], out: Path) -> None:
    """The pictures of the studies that were run."""
    studies = {run["study"] for run in found}
    if "ramp" in studies:
        _returns(grouped(found, "ramp"), BEST, out / "returns.png")
        _values(grouped(found, "ramp"), out / "values.png")
        _footprints(grouped(found, "ramp"), out / "footprints.png")
    if "off_policy" in studies:
        _off_policy(grouped(found, "off_policy"), out / "off_policy.png")
    if "plane" in studies:
        _returns(grouped(found, "plane"), PLANE_BEST, out / "plane.png")
    if "pixels" in studies:
        _pixels(grouped(found, "pixels"), out / "pixels.png")


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row")


def _curves(runs: list[dict[str, Any]], key: str) -> tuple[list[int], np.ndarray]:
    """Updates, and the values [seeds, points]."""
    updates = [row["update"] for row in runs[0]["curve"]]
    return updates, np.array([[row[key] for row in run["curve"]] for run in runs])


def _band(axis: Any, runs: list[dict[str, Any]], key: str, color: str, label: str) -> None:
    updates, values = _curves(runs, key)
    axis.plot(updates, values.T, color=color, lw=0.6, alpha=0.5)
    axis.plot(updates, [median(column) for column in values.T], color=color, lw=2, label=label)


def _returns(methods: dict[str, list[dict[str, Any]]], best: float, file: Path) -> None:
    figure, axes = _figure(2, 5, 15, 6)
    for axis, (name, runs) in zip(axes.flat, methods.items(), strict=False):
        _band(axis, runs, "return", "C0", "return")
        axis.axhline(best, color="grey", ls=":", lw=1)
        axis.set_title(name)
        axis.set_xlabel("update")
        axis.set_ylim(-19, 14)
    axes[0, 0].set_ylabel("return of an episode")
    figure.savefig(file, dpi=100)


def _values(methods: dict[str, list[dict[str, Any]]], file: Path) -> None:
    figure, axes = _figure(1, len(PAIRS), 15, 3.6)
    for axis, name in zip(axes.flat, PAIRS, strict=True):
        _band(axis, methods[name], "value_end", "C1", "believed where rollouts end")
        _band(axis, methods[name], "true_end", "C2", "true there")
        _band(axis, methods[name], "value_start", "C0", "believed at the start")
        axis.set_title(name)
        axis.set_xlabel("update")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(file, dpi=100)


def _footprints(methods: dict[str, list[dict[str, Any]]], file: Path) -> None:
    from matplotlib.patches import Rectangle

    figure, axes = _figure(1, len(PAIRS), 15, 4)
    side = 4 * EDGE + 1
    for axis, name in zip(axes.flat, PAIRS, strict=True):
        grid = np.full((side, side), np.nan)
        for x, y, visits in methods[name][0]["footprint"]["visits"]:
            grid[y + 2 * EDGE, x + 2 * EDGE] = np.log10(visits)
        reach = 2 * EDGE + 0.5
        axis.imshow(
            grid, origin="lower", extent=(-reach, reach, -reach, reach), vmin=-2.3, vmax=1.5
        )
        corner, width = 0.5 - EDGE, 2 * EDGE - 1
        axis.add_patch(Rectangle((corner, corner), width, width, fill=False, color="red"))
        axis.set_title(f"{name}, seed {methods[name][0]['seed']}")
    axes[0, 0].set_ylabel("red: what lies outside is no critic's input")
    figure.savefig(file, dpi=100)


def _pixels(methods: dict[str, list[dict[str, Any]]], file: Path) -> None:
    figure, axes = _figure(1, len(methods), 13, 3.6)
    for axis, (name, runs) in zip(axes.flat, methods.items(), strict=True):
        _band(axis, runs, "return", "C0", "return")
        axis.set_title(name)
        axis.set_xlabel("update")
    axes[0, 0].set_ylabel("mean return of 64 episodes")
    figure.savefig(file, dpi=100)


def _off_policy(methods: dict[str, list[dict[str, Any]]], file: Path) -> None:
    figure, axes = _figure(2, len(methods), 15, 6)
    for column, (name, runs) in zip(axes.T, methods.items(), strict=True):
        _band(column[0], runs, "max_edge", "C1", "largest value at the edge")
        column[0].axhline(BOUND, color="grey", ls=":", lw=1, label="bound within reach")
        column[0].set_yscale("symlog", linthresh=10)
        _band(column[1], runs, "return", "C0", "return")
        column[0].set_title(name)
        column[1].set_xlabel("update")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].set_ylabel("return of an episode, exact")
    figure.savefig(file, dpi=100)
