"""Imagination from a Transformer: starts that copy their window, against a shared prefix.

See the README beside this; the variants are in variants.py. Letters: B sequences, T rows, M = B * T
starts, L imagined steps, C window, D width.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from variants import Clone, Copied, Pass, Ring, Shared, training_pass

from worldmodels.backbones.configs import TransformerConfig
from worldmodels.backbones.stack import TransformerStack
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.rundir import describe_machine

VARIANTS = {"copied": Copied, "clone": Clone, "ring": Ring, "shared": Shared}
SIZES = (
    "16,64,32,15,256,2,4",
    "16,64,32,15,512,2,8",
    "16,64,64,15,512,2,8",
    "16,16,16,8,128,2,4",
    "8,128,32,15,256,2,4",
)
CHECKED = ("3,13,8,5,32,2,4", "2,16,4,7,32,3,2", "2,5,16,20,32,2,2")
"""Odd lengths, windows shorter than the imagination, and windows longer than the sequence."""
RESETS = 0.1
"""Share of rows that begin an episode."""


@dataclass(frozen=True)
class Sizes:
    batch: int
    length: int
    window: int
    steps: int
    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Task:
    """A backbone after a training pass with an incoming cache and resets, and its inputs."""

    backbone: TransformerStack
    passes: list[Pass]
    inputs: Tensor
    """[L, M, D]."""

    @classmethod
    def draw(cls, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> "Task":
        torch.manual_seed(0)
        config = TransformerConfig(
            width=sizes.width, heads=sizes.heads, layers=sizes.layers, window=sizes.window
        )
        backbone = TransformerStack(config, sizes.width).to(device, dtype)
        shape, starts = (sizes.batch, sizes.length), sizes.batch * sizes.length
        state, passes = backbone.initial(sizes.batch), []
        state = state.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
        for _ in range(2):
            u = torch.randn(*shape, sizes.width, dtype=dtype, device=device)
            reset = torch.rand(shape, device=device) < RESETS
            passes, state = training_pass(backbone, u, state, reset)
        inputs = torch.randn(sizes.steps, starts, sizes.width, dtype=dtype, device=device)
        return cls(backbone, passes, inputs)


def now(device: torch.device) -> float:
    """Seconds of the processor, or of the clock once a GPU has done all it was asked."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def check(sizes: Sizes, device: torch.device) -> float:
    """Largest difference in h between the variants, over all starts and steps, in float64."""
    task = Task.draw(sizes, torch.float64, device)
    h = {}
    for name, variant in VARIANTS.items():
        starts = variant(task.backbone, task.passes, sizes.steps)
        h[name] = torch.stack([starts.step(u) for u in task.inputs])
    return max(float((h[name] - h["copied"]).abs().max()) for name in h)


def imagine(name: str, task: Task) -> tuple[float, float, int]:
    """Seconds to emit the starts, seconds of L steps, bytes that the starts hold."""
    device = task.inputs.device
    began = now(device)
    starts = VARIANTS[name](task.backbone, task.passes, len(task.inputs))
    emitted = now(device)
    for u in task.inputs:
        starts.step(u)
    return emitted - began, now(device) - emitted, starts.nbytes


def peak_bytes(name: str, task: Task) -> int:
    """The most that torch's allocator held at once, above what it held before the emission."""
    device = task.inputs.device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        imagine(name, task)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        imagine(name, task)
    results = cast(Any, profiler.profiler).kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(sizes: Sizes, device: torch.device, repeats: int) -> dict[str, Any]:
    """Medians of every variant, and of its ratio to the copy beside it."""
    task, result = Task.draw(sizes, torch.float32, device), {}
    seconds = defaultdict(list)
    for name in VARIANTS:
        peak = peak_bytes(name, task)  # also warms up
        result[name] = {"state_bytes": imagine(name, task)[2], "peak_bytes": peak}
    for i in range(repeats):
        for name in list(VARIANTS)[:: 1 - 2 * (i % 2)]:
            seconds[name].append(imagine(name, task)[:2])
    for name, pairs in seconds.items():
        emission, steps = zip(*pairs, strict=True)
        ratios = [sum(a) / sum(b) for a, b in zip(seconds["copied"], pairs, strict=True)]
        result[name] |= {
            "emission_seconds": median(emission),
            "steps_seconds": median(steps),
            "seconds": median(map(sum, pairs)),
            "speedup": median(ratios),
            "speedup_range": [min(ratios), max(ratios)],
        }
    return {"sizes": asdict(sizes), "variants": result}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for every size and variant."""
    lines = [
        "| B, T, C, L, D, layers, heads | variant | emission, ms | L steps, ms | times faster "
        "| held, MiB | peak, MiB |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        sizes = ", ".join(map(str, row["sizes"].values()))
        for name, v in row["variants"].items():
            emission, steps = (
                f"{1e3 * v[key]:.1f}" for key in ("emission_seconds", "steps_seconds")
            )
            least, most = v["speedup_range"]
            faster = "1" if name == "copied" else f"{v['speedup']:.2f} ({least:.2f} to {most:.2f})"
            held, peak = (f"{v[key] / 2**20:.1f}" for key in ("state_bytes", "peak_bytes"))
            lines.append(f"| {' | '.join([sizes, name, emission, steps, faster, held, peak])} |")
            sizes = ""
    return "\n".join(lines)


def parse(text: str) -> Sizes:
    """`B,T,C,L,D,layers,heads` -> sizes."""
    return Sizes(*map(int, text.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=parse, nargs="+", default=[parse(s) for s in SIZES])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        difference = max(check(parse(sizes), device) for sizes in CHECKED)
        assert difference < 1e-10, f"the variants differ by {difference}"
        rows = [measure(sizes, device, options.repeats) for sizes in options.sizes]
    if not options.json:
        print(f"largest difference in float64: {difference:.1e}\n\n{table(rows)}")
        return
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "largest_difference_float64": difference,
        "machine": describe_machine(),
    }
    print(json.dumps({**header, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
