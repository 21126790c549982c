"""Times, peaks and growth: what a measurement is, whatever is measured."""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch.autograd.profiler import profile

Key = TypeVar("Key", bound=Hashable)


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, until the device has done all that it was asked."""
    _synchronize(device)
    began = perf_counter()
    function()
    _synchronize(device)
    return perf_counter() - began


def race(
    functions: Mapping[Key, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[Key, float]:
    """Median seconds by key; the functions take turns, so that a busy moment hits them alike."""
    times: dict[Key, list[float]] = {name: [] for name in functions}
    for name, function in functions.items():
        try:
            function()  # the first call allocates and compiles
        except Exception as error:  # a backbone of the user's own may fail in any way
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: median(values) for name, values in times.items()}


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """The most that one call holds in tensors at a time, beyond what was held before it.

    From torch's own allocators, so neither the interpreter nor freed memory counts.
    """
    if device.type == "cuda":
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    recorder: Any = profile(profile_memory=True, use_device=None)
    with _quiet(), recorder:
        function()
    events = [e for e in recorder.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def growth(lengths: Sequence[int], times: Sequence[float]) -> float:
    """p of times ~ lengths^p, by least squares in log-log over at least two lengths."""
    return float(np.polyfit(np.log(lengths), np.log(times), 1)[0])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing reaches the process's stderr: torch's profiler writes there from C++."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
