"""The report of `worldmodels bench backbones` as tables, for the terminal and for the page."""

from dataclasses import dataclass
from typing import Any

from worldmodels.bench.open_loop import QUANTITIES
from worldmodels.bench.speed import PARTS

_PARTS = {
    "sequence": "the backbone alone (sequence)",
    "observe": "posterior, backbone and prior (observe)",
}


@dataclass(frozen=True)
class Table:
    """Cells are text."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[list[str]]


def tables(report: dict[str, Any]) -> list[Table]:
    """All that the report holds."""
    result = [_sizes(report)]
    if "speed" in report:
        speed = report["speed"]
        result += [_times(speed, b, part) for b in sorted(speed["batches"]) for part in PARTS]
        result += [_singles(speed), _peaks(speed)]
    if "prediction" in report:
        result += [_errors(report["prediction"], quantity) for quantity in QUANTITIES]
    return result


def _sizes(report: dict[str, Any]) -> Table:
    rows = [
        [
            name,
            model["posterior"],
            f"{model['option']} {model['width']}",
            f"{model['parameters']:,}",
            f"{100 * model['deviation']:+.2f}%",
        ]
        for name, model in report["models"].items()
    ]
    return Table(
        f"World models of {report['parameters']:,} parameters, for {report['env']}",
        f"The width is solved for; the total may miss the wanted one by {report['tolerance']:.0%}.",
        ("model", "posterior", "solved", "parameters", "off by"),
        rows,
    )


def _times(speed: dict[str, Any], batch: int, part: str) -> Table:
    lengths = sorted(speed["lengths"])
    rows = []
    for name in speed["models"]:
        points = _points(speed, name, batch)
        cells = [_number(points.get(t, {}).get(part), 1e3) for t in lengths]
        if any(cells):
            rows.append([name, *cells, *_exponents(speed, name, batch, part)])
    return Table(
        f"Forward and backward of {_PARTS[part]}, ms, B = {batch}",
        "The exponent p of time ~ T^p is fitted to all T shown, and between the last two alone.",
        ("model", *(f"T={t}" for t in lengths), "p", "p at the end"),
        rows,
    )


def _exponents(speed: dict[str, Any], name: str, batch: int, part: str) -> list[str]:
    for fit in speed["growth"]:
        if (fit["model"], fit["batch"], fit["part"]) == (name, batch, part):
            return [f"{fit['exponent']:.2f}", f"{fit['at_the_end']:.2f}"]
    return ["", ""]


def _singles(speed: dict[str, Any]) -> Table:
    rows = [
        [
            name,
            _number(model["step_seconds"], 1e3),
            f"{model['imagined_rows_per_second']:,.0f}",
            _number(model["state_bytes"], 1 / 1024),
            _number(model["carry_bytes"], 1 / 1024),
            _number(model["emit"]["bytes"], 2**-20),
            _number(model["emit"]["extra_peak_bytes"], 2**-20),
            _number(max(0.0, model["emit"]["extra_seconds"]), 1e3),
        ]
        for name, model in speed["models"].items()
    ]
    starts = next(iter(speed["models"].values()))["emit"]["rows"]
    return Table(
        "One step, imagination, and what a state costs",
        f"Step: one stream, acting. Imagined: {speed['starts']:,} rows at a time, no gradient. "
        f"Start: h, z and the backbone's state of one row. Starts: {starts:,} of them handed out "
        "by one observe, the peak memory and the time that this adds to it.",
        (
            "model",
            "step ms",
            "imagined rows/s",
            "state KiB",
            "start KiB",
            "starts MiB",
            "added peak MiB",
            "added ms",
        ),
        rows,
    )


def _peaks(speed: dict[str, Any]) -> Table:
    lengths, batch = sorted(speed["lengths"]), max(speed["batches"])
    rows = []
    for name in speed["models"]:
        points = _points(speed, name, batch)
        cells = [_number(points.get(t, {}).get("peak_bytes"), 2**-20) for t in lengths]
        rows.append([name, *cells])
    return Table(
        f"Peak memory of observe forward and backward, MiB, B = {batch}",
        "Tensors alive at a time, beyond parameters and inputs; at most one start handed out.",
        ("model", *(f"T={t}" for t in lengths)),
        rows,
    )


def _errors(prediction: dict[str, Any], quantity: str) -> Table:
    depths = _shown([d for d, count in enumerate(prediction["windows"]) if count])
    rows = [
        [name, *(_number(curves[quantity][d], 1e3, 2) for d in depths)]
        for name, curves in [*prediction["models"].items(), *prediction["baselines"].items()]
    ]
    return Table(
        f"Open loop: {quantity} error by depth, x 1000",
        f"Mean squared error on held-out rows after {prediction['updates']} updates and "
        f"{prediction['context']} observed rows, medians over {len(prediction['seeds'])} seeds. "
        "Depth 0 is the last observed row.",
        ("model", *(f"depth {d}" for d in depths)),
        rows,
    )


def _shown(depths: list[int]) -> list[int]:
    """0, 1, 2, 4, 8, ... and the last."""
    last = depths[-1]
    return sorted({d for d in (0, 1, 2, 4, 8, 16, 32, 64, 128) if d <= last} | {last})


def _points(speed: dict[str, Any], name: str, batch: int) -> dict[int, dict[str, Any]]:
    """By T."""
    some = (p for p in speed["points"] if (p["model"], p["batch"]) == (name, batch))
    return {point["length"]: point for point in some}


def _number(value: float | None, factor: float, digits: int | None = None) -> str:
    """Three digits where that is enough, or `digits` after the point; nothing for None."""
    if value is None:
        return ""
    value *= factor
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"
