"""`worldmodels bench kernels --device cuda`: every implementation against the floors of the GPU.

Two floors, both measured in the same run: the bytes of each input read once and of each output
written once, at the rate of a large copy; and, for the scans, the exponentials at the rate of a
kernel that does nothing else. A call cannot be faster than either.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from worldmodels.kernels.arguments import MAKE, OPTIONAL, Arguments, learned, leaves
from worldmodels.kernels.dispatch import load
from worldmodels.runtime.rundir import describe_machine

SHAPES: dict[str, list[tuple[int, int, dict[str, int]]]] = {
    "selective_scan": [
        (8, 16, {"channels": 256, "states": 16}),
        (16, 64, {"channels": 512, "states": 16}),
        (16, 64, {"channels": 1024, "states": 16}),
        (32, 64, {"channels": 1024, "states": 64}),
        (16, 64, {"channels": 512, "states": 128}),
        (64, 256, {"channels": 1024, "states": 16}),
        (64, 512, {"channels": 1024, "states": 16}),
        (16, 512, {"channels": 2048, "states": 16}),
        (4, 4096, {"channels": 1024, "states": 16}),
        (1024, 1, {"channels": 512, "states": 16}),
        (1024, 1, {"channels": 1024, "states": 16}),
        (1024, 1, {"channels": 1024, "states": 64}),
    ],
    "ssd": [
        (16, 64, {"heads": 8, "width": 64, "states": 64}),
        (16, 64, {"heads": 16, "width": 64, "states": 128}),
        (64, 256, {"heads": 16, "width": 64, "states": 64}),
        (64, 512, {"heads": 16, "width": 64, "states": 128}),
        (4, 4096, {"heads": 16, "width": 64, "states": 64}),
        (1024, 1, {"heads": 8, "width": 64, "states": 64}),
    ],
    "causal_conv": [
        (16, 64, {"channels": 512, "taps": 4}),
        (64, 512, {"channels": 1024, "taps": 4}),
        (4, 4096, {"channels": 1024, "taps": 4}),
        (1024, 1, {"channels": 512, "taps": 4}),
    ],
}
"""Batch, steps and sizes; one step of 1024 rows is what imagination decodes."""
IMPLEMENTATIONS = ("triton", "eager", "reference", "mamba_ssm")
ELSEWHERE = {"ssd": ("flash_linear_attention",)}
"""Other libraries' kernels, to compare with alone."""
LOOPED = 64
"""The longest sequence for what loops over time in Python."""
USES = {
    "bare": "no optional argument",
    "resets": "2 % of the steps reset, and an initial state",
    "emitting": "the same, and all states as results",
}
RESETS = 0.02
COPIED = 2**28
"""Elements of the copy that measures bandwidth."""

Measure = Callable[[Callable[[], Any]], dict[str, float]]
"""A call -> milliseconds: median, p10 and p90, and graph, the median inside a CUDA graph."""


def measure_on_gpu(call: Callable[[], Any]) -> dict[str, float]:
    """By CUDA events, the L2 cache flushed before every call."""
    from triton.testing import do_bench, do_bench_cudagraph

    quantiles: Any = do_bench(call, warmup=25, rep=100, quantiles=[0.5, 0.1, 0.9])
    with torch.cuda.stream(torch.cuda.Stream()):
        graph: Any = do_bench_cudagraph(call, rep=50, return_mode="median")
    return dict(zip(("median", "p10", "p90", "graph"), (*quantiles, graph), strict=True))


def bench_gpu_kernels(
    device: str = "cuda",
    measure: Measure = measure_on_gpu,
    shapes: dict[str, list[tuple[int, int, dict[str, int]]]] | None = None,
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32),
) -> dict[str, Any]:
    """A row for each operator, shape, dtype, use, direction and implementation."""
    torch.manual_seed(0)
    rates = {"bytes": _copy_rate(device, measure), "exponentials": None}
    if device == "cuda":
        rates["exponentials"] = _exponential_rate(measure)
    rows = []
    for operator, found in (shapes or SHAPES).items():
        for batch, length, size in found:
            for dtype in dtypes:
                for use in USES if operator != "causal_conv" else list(USES)[:2]:
                    arguments = _arguments(operator, batch, length, size, dtype, use, device)
                    label = {"operator": operator, "batch": batch, "length": length, **size}
                    label |= {"dtype": str(dtype).removeprefix("torch."), "use": use}
                    rows += _rows(operator, arguments, label, length, rates, measure)
    return {"rates": rates, "rows": rows, "machine": describe_machine()}


def _arguments(operator, batch, length, size, dtype, use, device) -> Arguments:
    draw = partial(torch.randn, device=device)
    arguments = MAKE[operator](draw, batch, length, **size)
    if use == "bare":
        kept = {"D", "z", "delta_bias", "dt_bias", "bias"}
        arguments = {k: None if k in OPTIONAL - kept else x for k, x in arguments.items()}
    else:
        arguments["reset"] = torch.rand(batch, length, device=device) < RESETS
    if use == "emitting":
        arguments["emit"] = "all"
    return learned(arguments, dtype)


def _rows(operator, arguments, label, length, rates, measure) -> list[dict[str, Any]]:
    """Both directions, every implementation; what one cannot do is a row with the reason."""
    rows = []
    for direction in ("forward", "forward and backward"):
        learns = direction != "forward"
        floors = _floors(operator, arguments, rates, learns)
        for name in (*IMPLEMENTATIONS, *ELSEWHERE.get(operator, ())):
            loops = name == "reference" or (name, operator) == ("eager", "selective_scan")
            if loops and length > LOOPED:
                continue
            row = label | {"direction": direction, "implementation": name, **floors}
            try:
                function = _function(operator, name, arguments)
                call = partial(_learn if learns else _forward, function, arguments)
                row |= measure(call)
            except Exception as error:  # whatever a library or a compiler may raise
                row["reason"] = str(error).partition("\n")[0] or type(error).__name__
            rows.append(row)
    return rows


def _function(operator: str, name: str, arguments: Arguments) -> Callable[..., Any]:
    if name in ELSEWHERE.get(operator, ()):
        return getattr(import_module(f"worldmodels.kernels.{operator}.{name}"), operator)
    return load(operator, next(iter(leaves(arguments).values())), name)


@torch.no_grad()
def _forward(function: Callable[..., Any], arguments: Arguments) -> list[Tensor]:
    return [x for x in function(**arguments) if x is not None]


def _learn(function: Callable[..., Any], arguments: Arguments) -> Any:
    results = [x for x in function(**arguments) if x is not None and x.requires_grad]
    weights = [torch.ones_like(x) for x in results]
    return torch.autograd.grad(results, list(leaves(arguments).values()), weights)


def _floors(operator: str, arguments: Arguments, rates, learns: bool) -> dict[str, float]:
    """Milliseconds that bytes and exponentials take at least."""
    inputs = [x for x in arguments.values() if isinstance(x, Tensor)]
    stream, states = (arguments["u"], arguments["A"].numel()) if "u" in arguments else (None, 0)
    results = _result_bytes(operator, arguments)
    moved = sum(x.nbytes for x in inputs) + results
    if learns:
        moved += sum(x.nbytes for x in inputs) + results
        moved += sum(x.nbytes for x in leaves(arguments).values())
    floors = {"bytes_floor": 1000 * moved / rates["bytes"]}
    if stream is not None and rates["exponentials"]:
        count = stream.shape[0] * stream.shape[1] * states * (2 if learns else 1)
        floors["exponentials_floor"] = 1000 * count / rates["exponentials"]
    return floors


def _result_bytes(operator: str, arguments: Arguments) -> int:
    """Of the outputs: y, the last state and all states where asked."""
    stream = arguments["u" if "u" in arguments else "x"]
    batch, length = stream.shape[:2]
    if operator == "causal_conv":
        return stream.nbytes + 4 * batch * stream.shape[2] * (arguments["weight"].shape[1] - 1)
    state = 4 * stream[0, 0].numel() * arguments["B"].shape[-1]
    return stream.nbytes + batch * state * (1 + (length if arguments["emit"] == "all" else 0))


def _copy_rate(device: str, measure: Measure) -> float:
    """Bytes read and written in a second by a large copy."""
    elements = COPIED if device == "cuda" else 2**20
    source = torch.empty(elements, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes * 1000 / measure(lambda: target.copy_(source))["median"]


def _exponential_rate(measure: Measure) -> float:
    """Exponentials in a second, by a kernel that does nothing else."""
    from worldmodels.bench.exponentials import EACH, exponentials

    x = torch.zeros(2**22, device="cuda")
    return x.numel() * EACH * 1000 / measure(lambda: exponentials(x))["median"]
