"""`worldmodels report` on made-up run folders."""

import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from worldmodels.cli import main

TABLE = [[0.0, 8.0, 4.0, 2.0], [0.0, 1.0, 9.0, 3.0], [0.0, 0.0, 0.0, 6.0]]
ORDER = ["plain", "moved", "mirrored"]


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """`call("--continual", ...)` -> (exit code, stdout, stderr), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["report", *argv])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def refuse(call):
    def run(*argv: str) -> str:
        code, out, err = call(*argv)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def small(streams, tmp_path):
    """`stream/{fifo,wmar}-0` of one evaluation per task, and single-task runs that reach 10."""
    rows = streams.rows_of(TABLE, ORDER)
    streams.write_run(tmp_path / "stream/fifo-0", rows)
    better = np.maximum(TABLE, [[0, 0, 6, 6], [0, 0, 0, 8], [0, 0, 0, 0]])
    streams.write_run(tmp_path / "stream/wmar-0", streams.rows_of(better, ORDER), retention="wmar")
    for task in ORDER:
        rows = streams.rows_of([[0.0, 5.0, 10.0]], [task], every=50, per_exposure=2)
        streams.write_run(tmp_path / "alone" / task, rows)
    return tmp_path


def size_of(png) -> tuple[int, int]:
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_continual(call, streams, tmp_path):
    streams.write_study(tmp_path, seeds=3, points=4)
    code, out, err = call("--continual", "stream", "--single-task", "alone")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "report/metrics.json").read_text())
    fifo, wmar = (report["methods"][name]["summary"] for name in ("fifo", "wmar"))
    assert fifo["forgetting"]["median"] > wmar["forgetting"]["median"] + 0.2
    assert fifo["acc"]["median"] < wmar["acc"]["median"] - 0.2
    assert fifo["acc"]["seeds"] == 3
    page = (tmp_path / "report/report.md").read_text()
    for text in (out, page):
        for word in ("ACC", "FT", "WC-ACC", "fifo", "wmar", "mirrored", "single-task runs"):
            assert word in text
    assert "worldmodels report --continual stream --single-task alone" in page
    assert "Recovery" not in out
    for name in ("heatmap.png", "curves.png"):
        assert f"]({name})" in page
        width, height = size_of(tmp_path / "report" / name)
        assert 900 < width < 2000
        assert 400 < height < 2000
        assert 10_000 < (tmp_path / "report" / name).stat().st_size < 500_000


def test_numbers_by_hand(call, small):
    """fifo: F = (.6 + .6 + 0)/3, ACC = (.2 + .3 + .6)/3, WC-ACC = .6/3 + 2/3 (.2 + .3)/2.

    Alone .5 and 1 after 50 and 100 steps, so that the window of 100 with one evaluation has
    AUC_ref = 1: forward transfer is not defined in Continual World's form, and relative it is
    (.8 + .9 + .6)/3 - 1.
    """
    code, out, _ = call("--continual", "stream", "--single-task", "alone", "--json")
    report = json.loads(out)
    summary = report["methods"]["fifo"]["summary"]
    wanted = {
        "forgetting": 1.2 / 3,
        "acc": 1.1 / 3,
        "backward_transfer": -0.6,
        "min_acc": 0.25,
        "worst_case_acc": 0.2 + 2 / 3 * 0.25,
        "plasticity": 2.3 / 3,
        "forward_transfer_relative": 2.3 / 3 - 1,
        "forward_transfer_aligned": 2.3 / 3 - 1,
    }
    assert code == 0
    assert {name: summary[name]["median"] for name in wanted} == pytest.approx(wanted)
    assert summary["forward_transfer"] is summary["recovery"] is None
    (note,) = report["notes"]
    assert note.startswith("stream/fifo-0 and 1 more: forward_transfer is not defined")
    assert report["methods"]["fifo"]["terms"]["forgetting"]["moved"]["median"] == pytest.approx(0.6)
    assert report["normaliser"]["reference"] == dict.fromkeys(ORDER, 10.0)


def test_two_cycles(call, streams, tmp_path):
    streams.write_study(tmp_path, seeds=1, cycles=2, points=4)
    _, out, _ = call("--continual", "stream", "--single-task", "alone", "--out", "there")
    assert "Max-F" in out
    assert "Recovery" in out
    report = json.loads((tmp_path / "there/metrics.json").read_text())
    assert report["order"] == ORDER * 2
    summary = report["methods"]["wmar"]["summary"]
    assert summary["recovery"]["median"] == pytest.approx(1, abs=0.3)
    assert summary["forgetting"] == summary["forgetting_cycle_2"]


def test_what_one_seed_does_not_define_the_method_does_not(call, streams, tmp_path):
    """The second seed is at random play after its first training on `b`: no median of the other."""
    for seed, reached in enumerate((5.0, 0.0)):
        means = [[0.0, 8.0, 2.0, 10.0, 6.0], [0.0, 1.0, reached, 3.0, 4.0]]
        rows = streams.rows_of(means, ["a", "b", "a", "b"], random=0.0, reference=10.0)
        streams.write_run(tmp_path / f"stream/{seed}", rows, seed=seed)
    _, out, _ = call("--continual", "stream", "--json")
    report = json.loads(out)
    fifo = report["methods"]["fifo"]
    assert fifo["summary"]["recovery"] is None
    assert fifo["runs"][0]["values"]["recovery"] == pytest.approx((10 / 8 + 4 / 5) / 2)
    assert "stream/1: recovery is not defined" in report["notes"][-1]
    assert "for task b is that of random play" in report["notes"][-1]


def test_one_task_alone_prints_dashes(call, small):
    code, out, _ = call("--continual", "alone/plain", "--single-task", "alone/plain")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("fifo"))
    assert row.split() == ["fifo", "1", "1.00", "0.00", "-", "-", "1.00"]


def test_methods_are_told_apart_by_any_option(call, small, refuse):
    _, out, _ = call(
        *("--continual", "stream", "--single-task", "alone", "--json"),
        *("--group-by", "backbone", "--group-by", "seed", "--group-by", "replay.retention"),
    )
    assert list(json.loads(out)["methods"]) == ["gru, seed 0, fifo", "gru, seed 0, wmar"]
    error = refuse(
        "--continual", "stream", "--single-task", "alone", "--group-by", "replay.capacty"
    )
    assert "--group-by replay.capacty: no run has such an option; did you mean" in error
    assert "'replay.capacity'" in error


def test_missing_references(refuse, small):
    error = refuse("--continual", "stream", "--single-task", "alone/plain")
    assert "no single-task run of moved, mirrored to normalise by" in error
    assert "`worldmodels train continual:small --env.task moved`" in error
    assert "(and so for mirrored)" in error


def test_the_environments_own_references(call, streams, tmp_path):
    rows = streams.rows_of(TABLE, ORDER, random=-10.0, reference=10.0)
    streams.write_run(tmp_path / "one", rows)
    code, out, _ = call("--continual", "one")
    assert code == 0
    assert "note: No single-task run of plain, moved, mirrored" in out
    report = json.loads((tmp_path / "report/metrics.json").read_text())
    acc = report["methods"]["fifo"]["summary"]["acc"]["median"]
    assert acc == pytest.approx((12 + 13 + 16) / 60)


def test_a_reference_that_learnt_nothing(refuse, small, streams):
    shutil.rmtree(small / "alone/moved")
    flat = streams.rows_of([[0.0, 5.0, 0.0]], ["moved"], every=50, per_exposure=2)
    streams.write_run(small / "alone/moved", flat)
    error = refuse("--continual", "stream", "--single-task", "alone")
    assert "scores of moved cannot be normalised: the reference 0" in error
    assert not (small / "report").exists()


def test_runs_that_do_not_agree(refuse, small, streams):
    other = streams.rows_of(TABLE, ORDER[::-1])
    streams.write_run(small / "stream/reversed", other)
    error = refuse("--continual", "stream", "--single-task", "alone")
    assert "stream/reversed trained on mirrored > moved > plain" in error
    assert "plain > moved > mirrored" in error


def test_a_stream_from_step_0(refuse, small, streams):
    rows = [row for row in streams.rows_of(TABLE, ORDER) if row["step"] > 0]
    streams.write_run(small / "late", rows)
    error = refuse("--continual", "late", "--single-task", "alone")
    assert "late has no whole evaluation at step 0" in error


def test_what_does_not_fit_is_passed_over_below_a_folder(call, small, streams):
    """A single-task run, a run of which nothing was evaluated, and a torn line."""
    shutil.copytree(small / "alone/plain", small / "stream/plain")
    streams.write_run(small / "stream/young", [])
    with (small / "stream/fifo-0/scores.jsonl").open("a") as file:
        file.write('{"kind": "eval", "st')
    code, out, _ = call("--continual", "stream", "--single-task", "alone")
    assert code == 0
    assert "Passed over: stream/plain was trained on one task only" in out
    assert "Passed over: stream/young has no evaluations" in out
    assert "stream/fifo-0/scores.jsonl: 1 torn line passed over" in out


def test_seeds_and_ends_that_differ_are_noted(call, small, streams):
    longer = np.hstack([TABLE, np.array(TABLE)[:, -1:]])
    rows = streams.rows_of(longer, [*ORDER, ORDER[-1]], tasks=ORDER)
    streams.write_run(small / "stream/fifo-1", rows)
    _, out, _ = call("--continual", "stream", "--single-task", "alone")
    assert "fifo: several runs with seed 0" in out
    assert "not at the same steps in all runs: stream/fifo-0 at 100, 200, 300;" in out


def test_ordinary_runs(call, small, streams):
    rows = [
        {"kind": "eval", "env": "catch", "step": step, "mean": mean, "random_score": -1.0}
        | {"reference_score": 1.0}
        for step, mean in ((100, -0.5), (200, 0.75), (300, 0.5))
    ]
    streams.write_run(small / "catch", rows, env="catch")
    code, out, _ = call("catch", "alone")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("catch"))
    assert row.split() == ["catch", "catch", "3", "300", "0.500", "0.750", "0.750", "200"]
    assert sum(line.startswith("alone/") for line in out.splitlines()) == 3
    width, height = size_of(small / "report/learning.png")
    assert 900 < width < 2000
    assert 800 < height < 3000
    (curve, *_) = json.loads((small / "report/metrics.json").read_text())["curves"]
    assert curve["normalised"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "which runs?"),
        (["--continual"], "which runs?"),
        (["nowhere"], "nowhere does not exist"),
        (["stream/fifo-0", "--single-task", "alone"], "--single-task belongs to --continual"),
        (["stream", "--group-by", "seed"], "--group-by belongs to --continual"),
        (["--continual", "empty"], "empty is no run folder"),
        (["--continual", "alone"], "no run to report in alone. Passed over: alone/mirrored"),
        (["stream", "--out", "stream/fifo-0/config.yaml"], "choose another folder with --out"),
        (["stream", "--ot", "x"], "did you mean '--out'"),
    ],
)
def test_bad_command_lines(refuse, small, argv, sentence):
    (small / "empty").mkdir()
    assert sentence in refuse(*argv)


def test_reading_and_scoring_load_neither_torch_nor_matplotlib():
    modules = ("study", "page", "plots", "learning", "scores", "tables")
    names = ", ".join(f"worldmodels.report.{name}" for name in modules)
    program = f"import sys, {names}; print(*sorted({{'torch', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
