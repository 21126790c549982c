"""`worldmodels bench kernels`: the operators over time, eager against the reference, on the CPU.

One thread and its CPU time, calls of the two in turn, so that both see the same machine.
"""

import os
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.arguments import MAKE, learned, leaves
from worldmodels.kernels.dispatch import load
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.rundir import describe_machine

BATCH, LENGTH = 16, 64
ROWS = 1024
"""Rows of a single step, as imagination takes it, and emitted states M."""
WARM_UP = 2
RESETS = 0.02
"""Share of the steps that reset."""
PAIR = ("reference", "eager")


CASES = (
    ("selective_scan", {"channels": 512, "states": 16}),
    ("ssd", {"heads": 8, "width": 64, "states": 16}),
    ("ssd", {"heads": 8, "width": 64, "states": 64}),
    ("ssd", {"heads": 8, "width": 64, "states": 128}),
    ("causal_conv", {"channels": 512, "taps": 4}),
)


class Case:
    """One operator at one size, and arguments for it."""

    def __init__(self, operator: str, size: dict[str, int], batch: int, length: int):
        self.operator = operator
        self.size = " ".join(f"{name}={value}" for name, value in size.items())
        arguments = MAKE[operator](torch.randn, batch, length, **size)
        self.arguments = learned(arguments | {"reset": torch.rand(batch, length) < RESETS})

    def run(self, implementation: str, **options: Any) -> tuple[Tensor, ...]:
        """Results of one call."""
        function = load(self.operator, next(iter(self.arguments.values())), implementation)
        return function(**self.arguments | options)

    def learn(self, implementation: str, **options: Any) -> None:
        """One call and the backward of its output and last state."""
        y, last, *_ = self.run(implementation, **options)
        torch.autograd.grad(y.sum() + last.sum(), list(leaves(self.arguments).values()))

    def held(self, **options: Any) -> int:
        """Bytes that a call keeps for its backward or returns, its own inputs left out."""
        storages = {}

        def keep(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            results = self.run("eager", **options)
        for x in (x for x in results if x is not None):
            keep(x)
        for x in leaves(self.arguments).values():
            storages.pop(x.untyped_storage().data_ptr(), None)
        return sum(storage.nbytes() for storage in storages.values())


def bench_kernels(
    repeats: int = 7, batch: int = BATCH, length: int = LENGTH, rows: int = ROWS
) -> dict[str, Any]:
    """Medians of seconds, and of the ratio of each pair, by operator and kind of call."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        speed, emission = [], []
        for operator, size in CASES:
            sequence, step = Case(operator, size, batch, length), Case(operator, size, rows, 1)
            speed += _speed(sequence, step, repeats)
            if "emit" in sequence.arguments:
                emission += _emission(sequence, batch, length, rows, repeats)
    finally:
        torch.set_num_threads(threads)
    return {
        "batch": batch,
        "length": length,
        "rows": rows,
        "threads": 1,
        "load_before": load,
        "speed": speed,
        "emission": emission,
        "machine": describe_machine(),
    }


def _speed(sequence: Case, step: Case, repeats: int) -> list[dict]:
    """Eager against reference: forward, with the backward, and a single step of many rows."""
    found = []
    for kind, case in (("forward", sequence), ("forward and backward", sequence), ("step", step)):
        function = case.learn if "backward" in kind else torch.no_grad()(case.run)
        calls = [partial(function, name) for name in PAIR]
        times = _race(calls, repeats)
        found.append(
            {
                "operator": case.operator,
                "size": case.size,
                "call": kind,
                "reference_seconds": median(times[0]),
                "eager_seconds": median(times[1]),
                "ratio": median(b / a for a, b in zip(*times, strict=True)),
            }
        )
    return found


def _emission(case: Case, batch: int, length: int, rows: int, repeats: int) -> list[dict]:
    """What emitted states cost in time, and in bytes held besides what a call holds anyway."""
    index = torch.stack([torch.randint(n, (rows,)) for n in (batch, length)], 1)
    kinds = {"none": None, "all": "all", f"{rows} indexed": index}
    calls = [partial(case.learn, "eager", emit=emit) for emit in kinds.values()]
    times = _race(calls, repeats)
    held = [case.held(emit=emit) for emit in kinds.values()]
    return [
        {
            "operator": case.operator,
            "size": case.size,
            "emit": kind,
            "seconds": median(seconds),
            "bytes": bytes_held,
            "extra_bytes": bytes_held - held[0],
        }
        for kind, seconds, bytes_held in zip(kinds, times, held, strict=True)
    ]


def _race(functions: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """CPU-seconds of each function, called in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(WARM_UP + repeats):
        for function, seconds in zip(functions, times, strict=True):
            began = process_time()
            function()
            seconds.append(process_time() - began)
    return [seconds[WARM_UP:] for seconds in times]
