"""Every call for which the kernels are compiled: operator, size, dtype and use.

Calls are made on tensors without data and their launches recorded, so that what is compiled is
what would be launched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch

from worldmodels.kernels.arguments import MAKE, OPTIONAL, Arguments, learned, leaves
from worldmodels.kernels.launch import Launch, recorded

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
ROWS = 1024
"""Emitted states, and rows of a step."""
BATCH, LENGTH = 16, 64
SIZES = {
    "selective_scan": [
        {"channels": 512, "states": 16},
        {"channels": 1000, "states": 16},
        {"channels": 512, "states": 4},
        {"channels": 512, "states": 64},
        {"channels": 512, "states": 128},
    ],
    "ssd": [
        {"heads": 8, "width": 64, "states": 64},
        {"heads": 8, "width": 64, "states": 16},
        {"heads": 8, "width": 64, "states": 128},
        {"heads": 5, "width": 40, "states": 20},
    ],
    "causal_conv": [
        {"channels": 512, "taps": 4},
        {"channels": 1000, "taps": 4},
        {"channels": 512, "taps": 3},
        {"channels": 512, "taps": 2},
    ],
}
"""The first of each is the quick check's."""
OLDEST = {"selective_scan": 75, "causal_conv": 75, "ssd": 80}
"""Compute capability from which an operator is compiled; `ssd` needs tensor cores with TF32."""


@dataclass(frozen=True)
class Case:
    """A call of one operator and its backward."""

    operator: str
    size: tuple[tuple[str, int], ...]
    dtype: str
    use: str
    """train: gradients, all optional arguments and states at requested steps; plain: gradients and
    no optional argument; act: no gradient; step: one step of imagination, with gradients."""

    @property
    def name(self) -> str:
        """Unique, in words."""
        size = " ".join(f"{key}={value}" for key, value in self.size)
        return f"{self.operator} {size} {self.dtype} {self.use}"

    def launches(self) -> list[Launch]:
        """What the call launches, in order."""
        function = getattr(
            import_module(f"worldmodels.kernels.{self.operator}.triton"), self.operator
        )
        arguments = learned(self._arguments(), DTYPES[self.dtype])
        with recorded() as found, torch.set_grad_enabled(self.use != "act"):
            results = [x for x in function(**arguments) if x is not None]
            if self.use != "act":
                weights = [torch.empty_like(x) for x in results]
                torch.autograd.grad(results, list(leaves(arguments).values()), weights)
        return found

    def _arguments(self) -> Arguments:
        batch, length = (ROWS, 1) if self.use == "step" else (BATCH, LENGTH)
        empty = partial(torch.empty, device="meta")
        arguments = MAKE[self.operator](empty, batch, length, **dict(self.size))
        if self.use == "plain":
            return {name: None if name in OPTIONAL else x for name, x in arguments.items()}
        arguments["reset"] = empty(batch, length, dtype=torch.bool)
        if "emit" in arguments and self.use == "train":
            arguments["emit"] = empty(ROWS, 2, dtype=torch.int64)
        return arguments


def cases(quick: bool) -> Iterator[Case]:
    """`_FIRST` at each operator's first size, `_SIZED` at the others; `quick`: `_QUICK` alone."""
    for operator, sizes in SIZES.items():
        for place, size in enumerate(sizes):
            for dtype, use in _QUICK if quick else _FIRST if place == 0 else _SIZED:
                if not quick or place == 0:
                    yield Case(operator, tuple(size.items()), dtype, use)


_QUICK = [("bf16", "train")]
_SIZED = [("bf16", "train"), ("bf16", "step"), ("fp32", "train")]
_FIRST = [*_SIZED, ("bf16", "plain"), ("bf16", "act"), ("fp16", "train"), ("fp32", "step")]
