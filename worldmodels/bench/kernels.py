"""`worldmodels bench kernels`: the operators over time, eager against the reference, on the CPU.

One thread and its CPU time, calls of the two in turn, so that both see the same machine. Letters
as in the operators: I channels of N states, H heads of width P, W taps over D channels.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.causal_conv import causal_conv
from worldmodels.kernels.selective_scan import selective_scan
from worldmodels.kernels.ssd import ssd
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.rundir import describe_machine

BATCH, LENGTH = 16, 64
ROWS = 1024
"""Rows of a single step, as imagination takes it, and emitted states M."""
WARM_UP = 2
RESETS = 0.02
"""Share of the steps that reset."""
CHANNELS, HEADS = 512, 8
PAIR = ("reference", "eager")


@dataclass(frozen=True)
class Case:
    """One operator at one size: how to call it, and its floating inputs."""

    operator: str
    size: str
    call: Callable[..., tuple[Tensor, ...]]
    inputs: dict[str, Tensor]

    def run(self, implementation: str, **options: Any) -> tuple[Tensor, ...]:
        """Results of one call."""
        return self.call(**self.inputs, implementation=implementation, **options)

    def learn(self, implementation: str, **options: Any) -> None:
        """One call and the backward of its output and last state."""
        y, last, *_ = self.run(implementation, **options)
        torch.autograd.grad(y.sum() + last.sum(), list(self.inputs.values()))

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
        for x in self.inputs.values():
            storages.pop(x.untyped_storage().data_ptr(), None)
        return sum(storage.nbytes() for storage in storages.values())


def make_scan(batch: int, length: int, size: int) -> Case:
    """The scan of Mamba-1."""
    along, pair = (batch, length, CHANNELS), (batch, length, size)
    inputs = {name: torch.randn(along) for name in ("u", "delta", "z")}
    inputs |= {name: torch.randn(pair) for name in ("B", "C")}
    inputs |= {name: torch.randn(CHANNELS) for name in ("D", "delta_bias")}
    inputs |= {"A": -4 * torch.rand(CHANNELS, size)}
    inputs |= {"initial_state": torch.randn(batch, CHANNELS, size)}

    def call(**kwargs: Any) -> Any:
        return selective_scan(**kwargs, delta_softplus=True)

    return _case("selective_scan", f"I={CHANNELS} N={size}", call, inputs)


def make_ssd(batch: int, length: int, size: int) -> Case:
    """The scan of Mamba-2."""
    width = CHANNELS // HEADS
    along, pair = (batch, length, HEADS, width), (batch, length, 1, size)
    inputs = {name: torch.randn(along) for name in ("x", "z")}
    inputs |= {name: torch.randn(pair) for name in ("B", "C")}
    inputs |= {name: torch.randn(HEADS) for name in ("D", "dt_bias")}
    inputs |= {"A": -2 * torch.rand(HEADS), "dt": torch.randn(batch, length, HEADS)}
    inputs |= {"initial_state": torch.randn(batch, HEADS, width, size)}

    def call(**kwargs: Any) -> Any:
        return ssd(**kwargs, dt_softplus=True)

    return _case("ssd", f"H={HEADS} P={width} N={size}", call, inputs)


def make_conv(batch: int, length: int, size: int) -> Case:
    """The convolution of both."""
    inputs = {"x": torch.randn(batch, length, CHANNELS), "weight": torch.randn(CHANNELS, size)}
    inputs |= {"bias": torch.randn(CHANNELS)}
    inputs |= {"initial_window": torch.randn(batch, size - 1, CHANNELS)}

    def call(**kwargs: Any) -> Any:
        return causal_conv(**kwargs, activation="silu")

    return _case("causal_conv", f"D={CHANNELS} W={size}", call, inputs)


def _case(operator: str, size: str, call: Callable, inputs: dict[str, Tensor]) -> Case:
    return Case(operator, size, call, {k: x.requires_grad_() for k, x in inputs.items()})


CASES = ((make_scan, 16), (make_ssd, 16), (make_ssd, 64), (make_ssd, 128), (make_conv, 4))


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
        for make, size in CASES:
            speed += _speed(make, size, batch, length, rows, repeats)
            if make is not make_conv:
                emission += _emission(make(batch, length, size), batch, length, rows, repeats)
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


def _speed(make, size: int, batch: int, length: int, rows: int, repeats: int) -> list[dict]:
    """Eager against reference: forward, with the backward, and a single step of many rows."""
    sequence, step = make(batch, length, size), make(rows, 1, size)
    found = []
    for kind, case in (("forward", sequence), ("forward and backward", sequence), ("step", step)):
        function = case.learn if "backward" in kind else torch.no_grad()(case.run)
        shape = case.inputs["u" if "u" in case.inputs else "x"].shape[:2]
        calls = [partial(function, name, reset=torch.rand(shape) < RESETS) for name in PAIR]
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
    reset = torch.rand(batch, length) < RESETS
    calls = [partial(case.learn, "eager", reset=reset, emit=emit) for emit in kinds.values()]
    times = _race(calls, repeats)
    held = [case.held(reset=reset, emit=emit) for emit in kinds.values()]
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
