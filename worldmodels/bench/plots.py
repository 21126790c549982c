"""The plots of `worldmodels bench backbones`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from worldmodels.bench.open_loop import QUANTITIES
from worldmodels.bench.speed import PARTS

_MARKERS = "osD^vP*X<>"


def draw(report: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the PNG files; returns them by the sentence that says what each shows."""
    styles = _styles(report)
    drawn = {}
    if "speed" in report:
        speed = report["speed"]
        drawn["Time of forward and backward against T (log-log)"] = _save(
            _times(speed, styles), folder / "time.png"
        )
        drawn["One step and imagination"] = _save(_rates(speed, styles), folder / "steps.png")
        drawn["Memory"] = _save(_memory(speed, styles), folder / "memory.png")
    if "prediction" in report:
        drawn["Open-loop error against imagination depth"] = _save(
            _errors(report["prediction"], styles), folder / "prediction.png"
        )
    return drawn


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path


def _styles(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One colour and marker per backbone; `hx` is dashed and hollow."""
    names = list(dict.fromkeys(m["backbone"]["name"] for m in report["models"].values()))
    styles = {}
    for name, model in report["models"].items():
        place = names.index(model["backbone"]["name"])
        sequential = model["posterior"] == "hx"
        styles[name] = {
            "color": colormaps["tab10"](place % 10),
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": "--" if sequential else "-",
            "markerfacecolor": "none" if sequential else None,
            "label": _short(name),
        }
    return styles


def _short(name: str) -> str:
    """A path without its modules."""
    return name.rpartition(":")[2]


def _times(speed: dict[str, Any], styles: dict[str, dict[str, Any]]) -> Figure:
    """A panel per part and batch size."""
    batches = sorted(speed["batches"])
    figure = Figure(figsize=(11, 4.6 * len(batches)), layout="constrained")
    grid = figure.subplots(len(batches), len(PARTS), squeeze=False, sharey="row")
    for batch, axes in zip(batches, grid, strict=True):
        for part, axis in zip(PARTS, axes, strict=True):
            for name in speed["models"]:
                some = [
                    (p["length"], 1e3 * p[part])
                    for p in speed["points"]
                    if (p["model"], p["batch"]) == (name, batch) and p[part]
                ]
                if some:
                    axis.plot(*zip(*some, strict=True), **styles[name])
            _slope(axis, speed["lengths"])
            axis.set_title(f"{part}, B = {batch}")
            axis.set_yscale("log")
            _length_axis(axis, speed["lengths"])
        axes[0].set_ylabel("ms, forward and backward")
    _legend(figure, grid[0, -1])
    return figure


def _slope(axis: Any, lengths: Sequence[int]) -> None:
    """What growth in proportion to T looks like, through the highest point."""
    points = [(y, x) for line in axis.lines for x, y in line.get_xydata()]
    if not points:  # `hx` rows have no time of the backbone alone
        return
    high, at = max(points)
    ends = [min(lengths), max(lengths)]
    axis.plot(ends, [1.3 * high * t / at for t in ends], ":", color="grey", label="~ T")


def _length_axis(axis: Any, lengths: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(lengths), [str(t) for t in sorted(lengths)])
    axis.set_xlabel("T")
    axis.grid(alpha=0.3)


def _rates(speed: dict[str, Any], styles: dict[str, dict[str, Any]]) -> Figure:
    models = speed["models"]
    return _bars(
        {
            "one step of one stream, ms": [1e3 * m["step_seconds"] for m in models.values()],
            f"imagined rows per second, {speed['starts']:,} at a time": [
                m["imagined_rows_per_second"] for m in models.values()
            ],
        },
        [styles[name] for name in models],
    )


def _memory(speed: dict[str, Any], styles: dict[str, dict[str, Any]]) -> Figure:
    """Bars of one state's bytes; peak against T."""
    models = speed["models"]
    figure = _bars(
        {"backbone state of one row, KiB": [m["state_bytes"] / 1024 for m in models.values()]},
        [styles[name] for name in models],
        panels=2,
        log=True,
    )
    axis, batch = figure.axes[1], max(speed["batches"])
    for name in models:
        some = [
            (p["length"], p["peak_bytes"] / 2**20)
            for p in speed["points"]
            if p["model"] == name and "peak_bytes" in p
        ]
        if some:
            axis.plot(*zip(*some, strict=True), **styles[name])
    axis.set_yscale("log")
    axis.set_title(f"peak memory of observe, MiB, B = {batch}")
    _length_axis(axis, speed["lengths"])
    _legend(figure, axis)
    return figure


def _bars(
    panels_of: dict[str, list[float]],
    styles: list[dict[str, Any]],
    panels: int | None = None,
    log: bool = False,
) -> Figure:
    """Horizontal bars, a panel per title; the value stands at the end of each bar."""
    figure = Figure(figsize=(11, 1.2 + 0.32 * len(styles)), layout="constrained")
    axes = figure.subplots(1, panels or len(panels_of), squeeze=False)[0]
    labels = [style["label"] for style in styles]
    for axis, (title, values) in zip(axes, panels_of.items(), strict=False):
        bars = axis.barh(labels, values, log=log, color=[style["color"] for style in styles])
        for bar, style in zip(bars, styles, strict=True):
            if style["linestyle"] == "--":
                bar.set_alpha(0.5)
        axis.bar_label(
            bars,
            [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values],
            padding=3,
            fontsize=8,
        )
        axis.margins(x=0.18)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    return figure


def _errors(prediction: dict[str, Any], styles: dict[str, dict[str, Any]]) -> Figure:
    """A panel per quantity; baselines in grey, the spread over seeds as a band."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, len(QUANTITIES))
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        for dash, (name, curves) in zip((":", "-."), prediction["baselines"].items(), strict=True):
            axis.plot(*_line(curves[quantity]), color="grey", linestyle=dash, label=name)
        for name, curves in prediction["models"].items():
            depths, _ = _line(curves[quantity])
            axis.plot(*_line(curves[quantity]), markersize=4, **styles[name])
            seeds = [_line(one[quantity])[1] for one in curves["seeds"]]
            low, high = (list(map(pick, zip(*seeds, strict=True))) for pick in (min, max))
            axis.fill_between(depths, low, high, color=styles[name]["color"], alpha=0.12, lw=0)
        axis.set_title(f"{quantity}, squared error")
        axis.set_xlabel("rows since the last observation")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return figure


def _line(curve: list[float | None]) -> tuple[list[int], list[float]]:
    """Depths and errors where there were rows to compare."""
    some = [(depth, value) for depth, value in enumerate(curve) if value is not None]
    return [depth for depth, _ in some], [value for _, value in some]


def _legend(figure: Figure, axis: Any) -> None:
    """One legend beside all panels."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=8)
