"""The curves of one run as a PNG: returns, model losses, behaviour."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.errors import UserError

_PANELS = {
    "world model losses": (
        "loss/dyn",
        "loss/kl",
        "loss/reward",
        "loss/continue",
        "loss/decode/image",
        "loss/decode/planes",
    ),
    "policy entropy": ("behaviour/entropy",),
    "imagined return and value": ("behaviour/return", "behaviour/value"),
}


def plot_run(run: Path) -> Path:
    """Write `run/curves.png` from metrics.jsonl and scores.jsonl; returns its path."""
    from matplotlib.figure import Figure

    scores, metrics = read_lines(run / "scores.jsonl"), read_lines(run / "metrics.jsonl")
    if (run / "evaluations.jsonl").exists():  # what `worldmodels eval` appended
        scores += read_lines(run / "evaluations.jsonl")
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    _plot_returns(axes[0], scores)
    for axis, (title, names) in zip(axes[1:], _PANELS.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in metrics if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.partition("/")[2])
        axis.set_title(title)
        if axis.lines:
            axis.legend(fontsize=8)
    axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("agent steps")
        axis.grid(alpha=0.3)
    figure.suptitle(run.name)
    out = run / "curves.png"
    figure.savefig(out, dpi=120)
    return out


def _plot_returns(axis: Any, scores: list[dict[str, Any]], window: int = 50) -> None:
    train = [(row["step"], row["return"]) for row in scores if row["kind"] == "train"]
    if train:
        steps, returns = (np.array(column) for column in zip(*train, strict=True))
        axis.plot(steps, returns, ".", ms=2, alpha=0.3, color="tab:blue")
        width = min(window, len(returns))
        smooth = np.convolve(returns, np.ones(width) / width, "valid")
        axis.plot(steps[width - 1 :], smooth, color="tab:blue", label=f"training, mean of {width}")
    played: dict[str, list[tuple[int, float]]] = {}
    for row in scores:
        if row["kind"] == "eval":
            played.setdefault(row.get("task", ""), []).append((row["step"], row["mean"]))
    for color, (task, points) in enumerate(played.items(), 1):
        label = f"evaluation, {task}" if len(played) > 1 else "evaluation"
        axis.plot(*zip(*points, strict=True), "o", color=f"C{color}", label=label)
    axis.set_title("episode return")
    if axis.lines:
        axis.legend(fontsize=8)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; UserError where it is missing or broken."""
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
