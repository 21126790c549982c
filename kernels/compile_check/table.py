"""The committed table of what kernels need on each chip, and what became worse since."""

import json
from pathlib import Path
from typing import Any

import triton

PATH = Path(__file__).with_name("resources.json")
GROWTH = 1.1
"""Registers may grow by this factor."""

Row = dict[str, list[int]]
"""Compute capability -> registers a thread, bytes of shared memory."""


def read() -> dict[str, Any]:
    """{"triton": version, "kernels": {case and kernel: Row}}; empty where there is no table."""
    if not PATH.exists():
        return {"triton": None, "kernels": {}}
    return json.loads(PATH.read_text())


def write(rows: dict[str, Row]) -> None:
    """Replace the table, a line for each row."""
    lines = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    PATH.write_text(f'{{"triton": "{triton.__version__}", "kernels": {{\n  {lines}\n}}}}\n')


def regressions(rows: dict[str, Row], table: dict[str, Any]) -> list[str]:
    """What `rows` need beyond the table's numbers; nothing for a table of another Triton."""
    if table["triton"] != triton.__version__:
        return []
    found = []
    for name, row in rows.items():
        for arch, (registers, _) in row.items():
            old = table["kernels"].get(name, {}).get(arch)
            if old is None:
                found.append(f"{name} on sm_{arch} is not in {PATH.name}: run with --write")
            elif registers > GROWTH * old[0]:
                found.append(f"{name} on sm_{arch}: {registers} registers, {old[0]} in {PATH.name}")
    return found
