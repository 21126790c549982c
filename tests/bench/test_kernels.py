"""The bench of operators, at sizes that take no time."""

import json
from functools import partial

import pytest

from worldmodels.bench import kernels
from worldmodels.cli import main

bench = partial(kernels.bench_kernels, batch=2, length=20, rows=8)


def test_every_operator_and_kind_of_call():
    report = bench(1)
    assert {(row["operator"], row["call"]) for row in report["speed"]} == {
        (operator, call)
        for operator in ("selective_scan", "ssd", "causal_conv")
        for call in ("forward", "forward and backward", "step")
    }
    assert all(row["ratio"] > 0 for row in report["speed"])
    assert report["machine"]["cores"] > 0
    extra = {
        (row["operator"], row["size"], row["emit"]): row["extra_bytes"]
        for row in report["emission"]
    }
    state = 4 * 512 * 16
    # The scan keeps all states anyway; indexed ones are copies.
    assert extra["selective_scan", "channels=512 states=16", "all"] == 0
    assert extra["selective_scan", "channels=512 states=16", "8 indexed"] == pytest.approx(
        8 * state, abs=2**10
    )
    assert extra["ssd", "heads=8 width=64 states=16", "all"] == pytest.approx(
        2 * 20 * state, abs=2**10
    )
    # 8 states, and per sequence those between two chunks and before both.
    assert extra["ssd", "heads=8 width=64 states=16", "8 indexed"] == pytest.approx(
        14 * state, abs=2**10
    )


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "bench_kernels", bench)
    run = ["bench", "kernels", "--repeats", "1"]
    with pytest.raises(SystemExit, match="0"):
        main(run)
    printed = capsys.readouterr().out
    for text in (
        "selective_scan",
        "heads=8 width=64 states=128",
        "forward and backward",
        "MiB more",
    ):
        assert text in printed
    with pytest.raises(SystemExit, match="0"):
        main([*run, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["command"] == "worldmodels bench kernels --repeats 1 --json"
    with pytest.raises(SystemExit, match="2"):
        main([*run[:-1], "0"])
    assert "--repeats is at least 1, not 0" in capsys.readouterr().err
