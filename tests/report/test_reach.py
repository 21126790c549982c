"""The verdict on edge-of-reach, from a run's own logs."""

import json
from pathlib import Path
from typing import Any

import pytest

from worldmodels.report.reach import NAMES, draw_reach, reach, reach_table, verdict


@pytest.mark.parametrize(
    ("far", "believed", "got", "said"),
    [
        (0.9, 11.0, -9.0, "suffers"),
        (0.9, 9.0, 7.0, "bootstraps beyond its reach, but its values hold"),
        (0.05, 11.0, -4.0, "overestimates, but not at the edge"),
        (0.05, 5.0, 7.0, "does not suffer"),
        (0.9, None, 1.0, "unknown"),
        (0.0, 0.0, 0.0, "does not suffer"),
    ],
)
def test_verdicts(far, believed, got, said):
    assert verdict(far, believed, got, 0.5).startswith(said)


@pytest.mark.parametrize(
    ("std", "scale", "said"),
    [(0.0, 1.0, "suffers"), (1.0, 1.0, "bootstraps"), (0.0, 1.5, "bootstraps")],
)
def test_what_may_be_noise_or_is_small_is_no_overestimation(tmp_path, std, scale, said):
    """A gap of 0.7; eight episodes that vary by 1 leave two standard errors of 0.71."""
    folder = write_run(tmp_path / "run", [0.6] * 20, [(0.7, 0.0)], std=std, scale=scale)
    found = reach(folder)
    assert found is not None
    assert found["verdict"].startswith(said)
    assert verdict(0.6, 0.001, 0.0, 0.5).startswith("bootstraps")  # it never scored


def write_run(folder: Path, far: list[float], played: list[Any], std=0.0, scale=1.0) -> Path:
    folder.mkdir()
    lines = [
        {
            "step": 100 * i,
            "behaviour/return_scale": scale,
            **{f"behaviour/reach/{n}": x if n == "far" else 2.0 * x for n in NAMES},
        }
        for i, x in enumerate(far)
    ]
    lines.insert(0, {"step": 0, "loss/dyn": 1.0})  # before learning began
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scores = [
        {"kind": "eval", "step": 1000 * i, "believed": one, "discounted": other}
        | {"std": std, "episodes": 8}
        for i, (one, other) in enumerate(played)
    ]
    scores.append({"kind": "train", "step": 5})
    (folder / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)))
    return folder


def test_the_end_of_a_run_counts(tmp_path):
    far = [0.0] * 18 + [0.5, 0.7]
    found = reach(write_run(tmp_path / "run", far, [(1.0, 1.0), (9.0, -3.0)]))
    assert found is not None
    assert found["far"] == pytest.approx(0.6)
    assert found["value_edge"] == pytest.approx(1.2)
    assert (found["believed"], found["discounted"]) == (9.0, -3.0)
    assert found["verdict"].startswith("suffers")
    assert found["steps"][-1] == 1900
    row = reach_table([found]).rows[0]
    assert row[1:6] == ["0.60", "1.2 / 1.2", "1.2 / 1.2", "9", "-3"]
    picture = draw_reach([found], tmp_path)["Edge of reach"]
    assert picture.stat().st_size > 10_000


def test_every_task_of_a_stream_counts(tmp_path):
    """The last task's values hold, the first's do not."""
    folder = write_run(tmp_path / "run", [0.6] * 20, [(9.0, -3.0), (1.0, 1.0)])
    text = (folder / "scores.jsonl").read_text().replace('"step": 1000', '"step": 0')
    (folder / "scores.jsonl").write_text(text)
    found = reach(folder)
    assert found is not None
    assert (found["believed"], found["discounted"]) == (5.0, -1.0)


def test_a_run_without_such_logs_has_no_verdict(tmp_path):
    assert reach(tmp_path) is None
    assert reach(write_run(tmp_path / "run", [], [])) is None


def test_a_critic_that_says_nothing_is_unknown(tmp_path):
    found = reach(write_run(tmp_path / "run", [0.1], [(None, 3.0)]))
    assert found is not None
    assert found["verdict"].startswith("unknown")
    assert reach_table([found]).rows[0][4:6] == ["-", "-"]
