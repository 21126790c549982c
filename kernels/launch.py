"""How Triton kernels are launched: on a GPU, in Triton's interpreter, or not at all.

Every launch of the project goes through `launch`. So what an operator launches for given shapes can
be written down without a GPU (`recorded`, which the compile check reads), and an operator's body
serves as its own shape function: on tensors without data (meta, or fake under torch.compile) it
allocates its results and launches nothing.

`TRITON_INTERPRET=1`, set before the first kernel is imported, runs kernels on CPU tensors, slowly.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels take as floating inputs and give back; they calculate in float32."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: its arguments by name, constants too, and the compiler's options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


_recorders: list[list[Launch]] = []


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def launch(kernel: Any, grid: tuple[int, ...], *, warps: int, stages: int = 2, **arguments) -> None:
    """Run `kernel` over `grid`; tensors among `arguments` must be contiguous and on one device."""
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    for record in _recorders:
        record.append(Launch(kernel, grid, arguments, options))
    tensors = [x for x in arguments.values() if isinstance(x, Tensor)]
    for name, x in arguments.items():
        if isinstance(x, Tensor) and not x.is_contiguous():
            raise ValueError(
                f"{kernel.__name__}: {name} has strides {x.stride()}; make it contiguous"
            )
    if any(isinstance(x, FakeTensor) or x.is_meta for x in tensors) or 0 in grid:
        return
    with _device(tensors[0]):
        run(Launch(kernel, grid, arguments, options))


def run(launch: Launch) -> None:
    """Hand a launch to Triton."""
    launch.kernel[launch.grid](**launch.arguments, **launch.options)


def _device(x: Tensor) -> AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The launches made in the block, in order."""
    record: list[Launch] = []
    _recorders.append(record)
    try:
        yield record
    finally:
        _recorders.remove(record)


def operator(
    name: str, shapes: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """Register a body with torch as `worldmodels::name`, so that a graph holds it as one operator.

    The body returns tensors (never None) that share no memory with its inputs or each other. It is
    its own shape function too, unless `shapes`, which takes the same arguments, is given: for a
    body that is no launch but a loop.
    """

    def register(body: Callable[..., Any]) -> Any:
        registered = torch.library.custom_op(f"worldmodels::{name}", body, mutates_args=())
        registered.register_fake(shapes or body)
        return registered

    return register


def learns(inputs: Iterable[Tensor | None]) -> bool:
    """Whether a call on these is recorded to be differentiated."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def needs_operator(inputs: Iterable[Tensor | None]) -> bool:
    """Whether a call is to be differentiated or traced: otherwise the operator's body will do."""
    return learns(inputs) or torch.compiler.is_compiling()
