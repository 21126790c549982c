"""One HTML file with the tables and the plots inside: to be mailed, opened, archived."""

from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from worldmodels.bench.tables import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .2rem }
p { margin: .2rem 0 .6rem; color: #555 }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e4e4e4 }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #bbb }
img { max-width: 100%; height: auto }
"""


def write_page(
    path: Path, report: dict[str, Any], shown: list[Table], plots: dict[str, Path]
) -> None:
    """`shown` and `plots` (by caption) under the command, the commit and the machine."""
    parts = [_head(report), *(_plot(*item) for item in plots.items()), *map(_table, shown)]
    path.write_text("\n".join([*parts, "</body></html>"]) + "\n", encoding="utf-8")


def _head(report: dict[str, Any]) -> str:
    machine = report["machine"]
    facts = {
        "command": f"<code>{escape(report['command'])}</code>",
        "commit": escape(str(machine["commit"])),
        "machine": escape(describe(report)),
    }
    lines = "".join(f"<p><b>{name}</b>: {fact}</p>" for name, fact in facts.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Backbones of equal size</title><style>{_STYLE}</style></head><body>"
        f"<h1>Backbones of equal size, on {escape(report['env'])}</h1>{lines}"
    )


def describe(report: dict[str, Any]) -> str:
    """Where and how it was measured, in one line."""
    machine = report["machine"]
    place = machine["gpu"] if report["device"].startswith("cuda") else machine["processor"]
    load = report["load_before"]
    return (
        f"{place}, {machine['cores']} cores, device {report['device']}, precision "
        f"{report['precision']}, {report['threads']} threads, torch "
        f"{machine['packages']['torch']}, python {machine['python']}, load before "
        + ("unknown" if load is None else f"{load:.1f}")
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2><p>{escape(table.note)}</p>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _plot(caption: str, path: Path) -> str:
    data = b64encode(path.read_bytes()).decode()
    caption = escape(caption)
    return f'<h2>{caption}</h2><img alt="{caption}" src="data:image/png;base64,{data}">'
