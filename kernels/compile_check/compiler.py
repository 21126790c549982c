"""From a recorded launch to the registers, the spills and the shared memory of its machine code."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from worldmodels.kernels.compile_check.cases import OLDEST, Case
from worldmodels.kernels.launch import Launch

SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Shared memory that one program may take, by compute capability (CUDA programming guide)."""
REGISTERS = 65536
"""Registers of one multiprocessor, the same for all of these chips."""

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
    torch.uint8: "u8",
}
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one chip."""

    registers: int
    stack: int
    """Bytes; spilled registers live there."""
    doubles: int
    """Double-precision instructions."""
    shared: int
    """Bytes of shared memory."""
    warps: int

    def faults(self, arch: int) -> list[str]:
        """What keeps the kernel from running, or from running well, on `arch`."""
        found = []
        if self.stack:
            found.append(f"spills registers to a stack of {self.stack} bytes")
        if self.doubles:
            found.append(f"{self.doubles} double-precision instructions")
        if self.shared > SHARED_KIB[arch] * 1024:
            found.append(f"{self.shared} bytes of shared memory of {SHARED_KIB[arch]} KiB")
        if self.registers * 32 * self.warps > REGISTERS:
            found.append(f"{self.registers} registers x {self.warps} warps do not fit")
        return found


Compiled = tuple[str, int, Resources | str]
"""Case and kernel, compute capability, what it needs, or why it does not compile."""


def compile_all(chosen: Iterable[Case], archs: list[int], jobs: int) -> Iterator[Compiled]:
    """Every kernel of every case, on the chips that its operator runs on."""
    work = [(case, arch) for case in chosen for arch in archs if arch >= OLDEST[case.operator]]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for found in pool.map(compile_case, *zip(*work, strict=True)):
            yield from found


def compile_case(case: Case, arch: int) -> list[Compiled]:
    """What each kernel that `case` launches needs on `arch`."""
    found: list[Compiled] = []
    for launch in case.launches():
        try:
            needs = compile_launch(launch, arch)
        except Exception as error:  # the compiler raises what it likes
            needs = f"does not compile: {str(error).strip()}"
        found.append((f"{case.name}: {launch.kernel.__name__}", arch, needs))
    return found


def compile_launch(launch: Launch, arch: int) -> Resources:
    """Compile for compute capability `arch` (86 is 8.6) what `launch` would run there."""
    signature, constants, attributes = _specialised(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    compiled: Any = triton.compile(source, GPUTarget("cuda", arch, 32), dict(launch.options))
    used = re.search(r"REG:(\d+) STACK:(\d+)", _resource_usage(compiled.asm["cubin"]))
    assert used, "cuobjdump printed no resource usage"
    return Resources(
        registers=int(used[1]),
        stack=int(used[2]),
        doubles=len(re.findall(r"\b(?:add|sub|mul|fma|div)[.\w]*\.f64\b", compiled.asm["ptx"])),
        shared=compiled.metadata.shared,
        warps=launch.options["num_warps"],
    )


def _specialised(launch: Launch) -> tuple[dict, dict, dict]:
    """Types, constants and divisibility of the arguments, as a launch would specialise them."""
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    return signature, constants, attributes


def _resource_usage(cubin: bytes) -> str:
    """As cuobjdump prints it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [_TOOLS / "cuobjdump", "-res-usage", path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
