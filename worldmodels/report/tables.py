"""A comparison as tables of text, for the terminal and for report.md."""

from dataclasses import dataclass
from typing import Any

_NOTES = {
    "remembering": (
        "Remembering",
        "ACC, BWT, min-ACC and WC-ACC: higher is better. F: lower is better; read it with ACC, "
        "since what was never learnt is never forgotten.",
    ),
    "learning": (
        "Learning new tasks",
        "Plasticity and forward transfer: higher is better; FT is Continual World's form, the "
        "headline. F smoothed is F from means of five evaluations.",
    ),
    "cycles": (
        "Cycles",
        "F and Max-F: lower is better; FT and Recovery: higher is better.",
    ),
}


@dataclass(frozen=True)
class Table:
    """Cells are text."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[list[str]]


def continual_tables(report: dict[str, Any]) -> list[Table]:
    """The methods side by side, then every task's terms, then what the scores are measured by."""
    found = [_group(report, name) for name in _NOTES]
    return [*(table for table in found if table), _terms(report), _anchors(report["normaliser"])]


def _group(report: dict[str, Any], name: str) -> Table | None:
    """One row per method; None where no method defines any of the columns."""
    columns = [one for one in report["metrics"] if one["group"] == name]
    methods = report["methods"]
    if not any(one["summary"][c["name"]] for one in methods.values() for c in columns):
        return None
    rows = [
        [method, str(len(one["runs"])), *(spread(one["summary"][c["name"]]) for c in columns)]
        for method, one in methods.items()
    ]
    title, note = _NOTES[name]
    return Table(
        f"{title}: median [quartiles] over seeds",
        note,
        ("method", "seeds", *(column["label"] for column in columns)),
        rows,
    )


def _terms(report: dict[str, Any]) -> Table:
    columns = ("forgetting", "plasticity", "forward_transfer")
    rows = []
    for method, one in report["methods"].items():
        for task in report["tasks"]:
            ends = (one["scores"][when][task] for when in ("after_training", "at_the_end"))
            terms = (one["terms"].get(name, {}).get(task) for name in columns)
            rows.append([method, task, *map(spread, ends), *map(spread, terms)])
    return Table(
        "Every task: median [quartiles] over seeds",
        "Normalised score at the end of its last training and at the end of the run, and its terms "
        "of F, plasticity and FT. One task can decide a mean.",
        ("method", "task", "trained", "at the end", "F", "plasticity", "FT"),
        rows,
    )


def _anchors(normaliser: dict[str, Any]) -> Table:
    random, reference = normaliser["random"], normaliser["reference"]
    return Table(
        "Anchors: mean raw return per episode",
        f"The scores 0 and 1, from {normaliser['source']}.",
        ("task", "random", "reference"),
        [[task, f"{random[task]:.6g}", f"{reference[task]:.6g}"] for task in random],
    )


def spread(summary: dict[str, Any] | None) -> str:
    """`median [q25, q75]`; one seed has no quartiles, and an undefined number is `-`."""
    if summary is None:
        return "-"
    if summary["seeds"] == 1:
        return _number(summary["median"])
    return f"{_number(summary['median'])} [{_number(summary['q25'])}, {_number(summary['q75'])}]"


def _number(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text
