"""The GPU's bench of operators, on CPU tensors and with a clock of the test's own."""

import pytest
import torch

from worldmodels.bench import gpu_kernels
from worldmodels.cli import bench_kernels

SHAPES = {
    "selective_scan": [(2, 5, {"channels": 6, "states": 4})],
    "ssd": [(2, 5, {"heads": 2, "width": 3, "states": 4})],
    "causal_conv": [(2, 5, {"channels": 6, "taps": 4})],
}


LIBRARIES = ("mamba_ssm", "flash_linear_attention")


def once(call) -> dict[str, float]:
    call()
    return {"median": 2.0, "p10": 1.0, "p90": 3.0, "graph": 1.5}


@pytest.fixture(scope="module")
def report():
    kept = gpu_kernels.IMPLEMENTATIONS
    gpu_kernels.IMPLEMENTATIONS = ("eager", "reference", "mamba_ssm")
    try:
        yield gpu_kernels.bench_gpu_kernels("cpu", once, SHAPES, (torch.float32,))
    finally:
        gpu_kernels.IMPLEMENTATIONS = kept


def test_every_operator_use_direction_and_implementation(report):
    found = {
        (row["operator"], row["use"], row["direction"], row["implementation"])
        for row in report["rows"]
    }
    uses = {"selective_scan": 3 * 3, "ssd": 3 * 4, "causal_conv": 2 * 3}
    assert len(found) == len(report["rows"]) == sum(uses.values()) * 2
    measured = [row for row in report["rows"] if row["implementation"] not in LIBRARIES]
    assert all(row["median"] == 2.0 for row in measured)


def test_what_cannot_run_has_a_reason(report):
    rows = [row for row in report["rows"] if row["implementation"] in LIBRARIES]
    assert {row["implementation"] for row in rows} == set(LIBRARIES)
    assert all("median" not in row and "on CUDA alone" in row["reason"] for row in rows)
    elsewhere = [row for row in rows if row["implementation"] == "flash_linear_attention"]
    assert {row["operator"] for row in elsewhere} == {"ssd"}
    for row in elsewhere:
        assert ("takes no reset" in row["reason"]) == (row["use"] != "bare")
        assert ("takes no emit" in row["reason"]) == (row["use"] == "emitting")


def test_a_library_that_fails_is_a_reason_too(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(gpu_kernels, "load", fail)
    shapes = {"causal_conv": SHAPES["causal_conv"]}
    rows = gpu_kernels.bench_gpu_kernels("cpu", once, shapes, (torch.float32,))["rows"]
    assert {row["reason"] for row in rows} == {"AssertionError"}


def test_the_floor_counts_each_byte_once(report):
    """Bare forward of the scan: u, delta, z, y 2x5x6, A 6x4, B, C 2x5x4, D, bias 6, last 2x6x4."""
    rate = report["rates"]["bytes"]
    assert rate == 2 * 4 * 2**20 * 1000 / 2.0
    row = next(
        row
        for row in report["rows"]
        if (row["operator"], row["use"], row["direction"]) == ("selective_scan", "bare", "forward")
    )
    numbers = 4 * 60 + 24 + 2 * 40 + 2 * 6 + 48
    assert row["bytes_floor"] == pytest.approx(1000 * 4 * numbers / rate)


def test_rows_are_printed(report):
    lines = [bench_kernels._gpu_row(row) for row in report["rows"]]
    assert all(len(line) == len(bench_kernels.GPU_COLUMNS) for line in lines)
    assert lines[0][2] == "2x5 channels=6 states=4 float32"
    assert lines[0][4:6] == ["2.0000", "1.5000"]
