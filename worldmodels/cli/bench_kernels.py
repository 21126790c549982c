"""`worldmodels bench kernels`: the operators over time, on a CPU or a GPU."""

import json
import shlex
from typing import Any

from worldmodels.cli.arguments import Parser
from worldmodels.cli.tables import print_table
from worldmodels.config import Config
from worldmodels.errors import UserError

GPU_COLUMNS = (
    "operator",
    "call",
    "shape",
    "implementation",
    "ms",
    "in a graph",
    "of the floor",
)


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser("bench kernels", "Operators over time: every implementation, and the floors.")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of calls measured on a CPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.read(argv)
    if args.repeats < 1:
        raise UserError(f"--repeats is at least 1, not {args.repeats}")

    from worldmodels.bench.gpu_kernels import bench_gpu_kernels  # torch, only now
    from worldmodels.bench.kernels import bench_kernels
    from worldmodels.runtime.fabric import choose_device

    device, _, _ = choose_device(Config(device=args.device))
    on_gpu = device.startswith("cuda")
    found = bench_gpu_kernels() if on_gpu else bench_kernels(args.repeats)
    command = shlex.join(["worldmodels", "bench", "kernels", *argv])
    report = {"command": command, **found}
    if args.json:
        print(json.dumps(report, indent=1))
    elif on_gpu:
        print_table(GPU_COLUMNS, [_gpu_row(row) for row in report["rows"]])
    else:
        _print_cpu_kernels(report)


def _gpu_row(row: dict[str, Any]) -> list[str]:
    known = {"operator", "batch", "length", "dtype", "use", "direction", "implementation"}
    sizes = [f"{k}={v}" for k, v in row.items() if k not in known and isinstance(v, int)]
    shape = " ".join([f"{row['batch']}x{row['length']}", *sizes, row["dtype"]])
    cells = [row["operator"], f"{row['direction']}, {row['use']}", shape, row["implementation"]]
    if "reason" in row:
        return [*cells, "-", "-", row["reason"]]
    floor = max(row["bytes_floor"], row.get("exponentials_floor", 0.0))
    times = [f"{row[key]:.4f}" for key in ("median", "graph")]
    return [*cells, *times, f"{row['median'] / floor:.2f}x"]


def _print_cpu_kernels(report: dict[str, Any]) -> None:
    print(
        f"CPU time of one thread; {report['batch']} x {report['length']} steps, "
        f"single steps of {report['rows']} rows"
    )
    print_table(
        ("operator", "size", "call", "reference ms", "eager ms", "ratio"),
        [_speed_row(row) for row in report["speed"]],
    )
    print("emitted states, forward and backward")
    print_table(
        ("operator", "size", "emit", "ms", "MiB held", "MiB more"),
        [_emission_row(row) for row in report["emission"]],
    )


def _speed_row(part: dict[str, Any]) -> list[str]:
    milliseconds = (f"{1000 * part[key]:.2f}" for key in ("reference_seconds", "eager_seconds"))
    return [part["operator"], part["size"], part["call"], *milliseconds, f"{part['ratio']:.2f}"]


def _emission_row(part: dict[str, Any]) -> list[str]:
    mebibytes = (f"{part[key] / 2**20:.1f}" for key in ("bytes", "extra_bytes"))
    milliseconds = f"{1000 * part['seconds']:.2f}"
    return [part["operator"], part["size"], part["emit"], milliseconds, *mebibytes]
