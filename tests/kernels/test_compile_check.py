"""The compile check: it sees what is wrong, and the kernels pass it."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this platform")
import triton
import triton.language as tl

from worldmodels.kernels.compile_check import __main__ as command
from worldmodels.kernels.compile_check import table
from worldmodels.kernels.compile_check.cases import cases
from worldmodels.kernels.compile_check.compiler import Resources, compile_launch
from worldmodels.kernels.launch import Launch, interpreting, launch, recorded

pytestmark = pytest.mark.skipif(interpreting(), reason="nothing compiles in the interpreter")
FINE = Resources(registers=64, stack=0, doubles=0, shared=1024, warps=4)


@triton.jit
def product_kernel(x, y, SIZE: tl.constexpr, DTYPE: tl.constexpr):
    i = tl.arange(0, SIZE)
    place = i[:, None] * SIZE + i[None, :]
    value = tl.load(x + place).to(DTYPE)
    if tl.float32 == DTYPE:
        value = tl.dot(value, value, input_precision="ieee")
    tl.store(y + place, value * value + value)


def product(size: int, dtype: tl.dtype, warps: int) -> Launch:
    x = torch.empty(size, size, device="meta")
    with recorded() as found:
        launch(product_kernel, (1,), warps=warps, x=x, y=x, SIZE=size, DTYPE=dtype)
    return found[0]


def test_a_kernel_that_fits_has_no_faults():
    needs = compile_launch(product(16, tl.float32, warps=4), 86)
    assert needs.faults(86) == []
    assert 0 < needs.registers < 128


def test_a_kernel_that_spills_is_seen():
    needs = compile_launch(product(64, tl.float32, warps=1), 86)
    assert needs.stack > 0
    assert needs.faults(86)[0].startswith("spills registers to a stack of")


def test_double_precision_is_seen():
    needs = compile_launch(product(16, tl.float64, warps=4), 86)
    assert needs.doubles > 0
    assert any("double-precision" in fault for fault in needs.faults(86))


def test_shared_memory_and_registers_have_limits():
    big = replace(FINE, shared=100 * 1024)
    assert big.faults(90) == []
    assert big.faults(86) == ["102400 bytes of shared memory of 99 KiB"]
    assert replace(FINE, registers=255, warps=16).faults(90) == [
        "255 registers x 16 warps do not fit"
    ]


def test_growth_of_registers_is_a_regression(monkeypatch):
    kept = {"triton": triton.__version__, "kernels": {"a": {"86": [100, 0]}}}
    assert table.regressions({"a": {"86": [110, 9]}}, kept) == []
    assert table.regressions({"a": {"86": [111, 0]}}, kept) == [
        "a on sm_86: 111 registers, 100 in resources.json"
    ]
    assert table.regressions({"a": {"90": [1, 0]}}, kept) == [
        "a on sm_90 is not in resources.json: run with --write"
    ]
    assert table.regressions({"a": {"86": [255, 0]}}, kept | {"triton": "another"}) == []


def test_the_table_is_read_as_written(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "PATH", tmp_path / "resources.json")
    assert table.read() == {"triton": None, "kernels": {}}
    table.write({"a": {"86": [1, 2]}, "b": {"90": [3, 4]}})
    assert table.read() == {
        "triton": triton.__version__,
        "kernels": {"a": {"86": [1, 2]}, "b": {"90": [3, 4]}},
    }


def test_rows_of_gone_cases_leave_the_table():
    name = next(cases(quick=True)).name
    old = {f"{name}: kernel": {"80": [1, 1]}, "gone: kernel": {"80": [2, 2]}}
    new = {f"{name}: kernel": {"86": [3, 3]}}
    assert command.merged(old, new) == {f"{name}: kernel": {"80": [1, 1], "86": [3, 3]}}


def run(*arguments: str) -> subprocess.CompletedProcess:
    module = [sys.executable, "-m", "worldmodels.kernels.compile_check"]
    return subprocess.run([*module, *arguments], capture_output=True, text=True)


def test_kernels_compile_for_a_laptop_and_a_data_centre():
    done = run("--quick", "--arch", "86", "90")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 faults" in done.stdout


@pytest.mark.slow
def test_every_kernel_compiles_for_every_chip():
    done = run()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 faults" in done.stdout


def test_an_unknown_chip_lists_the_known_ones():
    done = run("--arch", "70")
    assert done.returncode == 2
    assert "choose from 75, 80, 86, 89, 90, 100, 120" in done.stderr
