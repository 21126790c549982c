"""What the sequence operators share: shapes, resets, emitted positions, arithmetic width.

Time is axis 1. A reset drops the carried state before its step consumes its token.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Emit = Literal["all"] | Tensor | None
"""No states, all of them ("all", in the order b * T + t), or those at int64 [M, 2] of (b, t).

Positions may repeat; that they lie within B and T is not checked on a GPU, where no value is read.
States may share memory with what the backward needs: do not write into them.
"""


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype of arithmetic and states: float64 for float64 inputs, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which long sums are kept: float64, where the device of `x` has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def no_autocast(x: Tensor) -> AbstractContextManager:
    """A block in which operations on the device of `x` keep the dtypes that they are given."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def check_shape(operator: str, name: str, x: Tensor | None, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless `x` is None or has one of `shapes`."""
    if x is not None and tuple(x.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"{operator}: {name} has shape {list(x.shape)}; give it {wanted}, "
            "as the other arguments have it"
        )


def check_sequence(operator: str, name: str, x: Tensor, axes: int) -> None:
    """Raise ValueError unless `x` has `axes` axes, of which the second, time, is not empty."""
    if x.ndim != axes or x.shape[1] < 1:
        raise ValueError(
            f"{operator}: {name} has shape {list(x.shape)}; give it {axes} axes, batch first, "
            "then at least one step of time"
        )


def check_reset(operator: str, reset: Tensor | None, batch: int, length: int) -> None:
    """Raise ValueError unless `reset` is None or bool [B, T]."""
    check_shape(operator, "reset", reset, (batch, length))
    if reset is not None and reset.dtype != torch.bool:
        raise ValueError(f"{operator}: reset is {reset.dtype}; give it as bool")


def check_emit(operator: str, emit: Emit) -> None:
    """Raise ValueError unless `emit` is one of the three kinds."""
    if isinstance(emit, Tensor):
        if emit.dtype != torch.int64 or emit.ndim != 2 or emit.shape[1] != 2:
            raise ValueError(
                f"{operator}: emit is {emit.dtype} {list(emit.shape)}; "
                "give it as int64 [M, 2], rows of (b, t)"
            )
    elif emit is not None and emit != "all":
        raise ValueError(f"{operator}: emit is {emit!r}; give None, 'all' or int64 [M, 2]")


def flat_positions(emit: Tensor, length: int) -> Tensor:
    """Index [M, 2] of (b, t) -> b * T + t, [M]."""
    return emit[:, 0] * length + emit[:, 1]


def requests(
    emit: Literal["all"] | Tensor, batch: int, length: int, device
) -> tuple[Tensor, Tensor]:
    """What was asked for by step, for kernels that store a state as they pass it.

    Returns int32 order [M], the rows of the emitted states sorted by b * T + t, and offsets
    [B * T + 1]: step b * T + t was asked for by the rows order[offsets[b * T + t]] up to
    order[offsets[b * T + t + 1] - 1]. Shapes do not depend on values.
    """
    steps = torch.arange(batch * length + 1, device=device, dtype=torch.int32)
    if isinstance(emit, str):
        return steps[:-1].clone(), steps
    flat, order = flat_positions(emit, length).to(torch.int32).sort(stable=True)
    return order.to(torch.int32), torch.searchsorted(flat, steps, out_int32=True)


def segments(reset: Tensor) -> Tensor:
    """Bool [B, T] -> how many resets there were up to and at t; the state given has segment 0."""
    return reset.cumsum(1)


def keep_bits(reset: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool [B, T] -> integers as wide as `dtype`: no bit set where there is a reset, else all.

    A bitwise product with these cuts every value, NaN too, faster than a masked fill does.
    """
    return reset.to(torch.int64 if dtype == torch.float64 else torch.int32) - 1


def row_blocks(x: Tensor, cached: int) -> list[slice]:
    """Slices of the first axis of `x`, of `cached` bytes each on a CPU and all of it elsewhere."""
    rows = x.shape[0]
    step = rows
    if x.device.type == "cpu":
        step = cached * rows // max(x.numel() * x.element_size(), 1)
    step = min(max(step, 1), max(rows, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]
