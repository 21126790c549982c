"""`python -m worldmodels.kernels.compile_check`: compile every kernel for real chips, without one.

Fails where a kernel spills, needs more shared memory than the chip has, calculates in double
precision, or needs more registers than the committed table says. Triton caches what it compiled,
by source, so a second call is quick.
"""

import argparse
import os
import sys

from worldmodels.kernels.compile_check import table
from worldmodels.kernels.compile_check.cases import OLDEST, cases
from worldmodels.kernels.compile_check.compiler import SHARED_KIB, compile_all


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m worldmodels.kernels.compile_check",
        description="Compile every Triton kernel for real chips, without one.",
    )
    known = sorted(SHARED_KIB)
    parser.add_argument("--arch", type=int, nargs="+", default=known, choices=known)
    parser.add_argument("--operator", nargs="+", default=list(OLDEST), choices=list(OLDEST))
    parser.add_argument("--quick", action="store_true", help="one case for each operator")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--write", action="store_true", help="put the numbers into the table")
    options = parser.parse_args(argv)
    chosen = [case for case in cases(options.quick) if case.operator in options.operator]
    rows: dict[str, table.Row] = {}
    faults: list[str] = []
    for name, arch, needs in compile_all(chosen, options.arch, options.jobs):
        if isinstance(needs, str):
            faults.append(f"{name} on sm_{arch} {needs}")
            continue
        rows.setdefault(name, {})[str(arch)] = [needs.registers, needs.shared]
        faults += [f"{name} on sm_{arch}: {fault}" for fault in needs.faults(arch)]
        print(
            f"sm_{arch} {needs.registers:3} registers {needs.shared:6} B shared  {name}", flush=True
        )
    if options.write and not faults:
        table.write(merged(table.read()["kernels"], rows))
    else:
        faults += table.regressions(rows, table.read())
    print(*faults, f"{len(rows)} kernels, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


def merged(old: dict[str, table.Row], new: dict[str, table.Row]) -> dict[str, table.Row]:
    """The rows of a table with those of this call over them; rows of cases that are gone leave."""
    names = {case.name for case in cases(quick=False)}
    kept = {name: row for name, row in old.items() if name.split(": ")[0] in names}
    return {name: kept.get(name, {}) | new.get(name, {}) for name in sorted(kept | new)}


if __name__ == "__main__":
    sys.exit(main())
