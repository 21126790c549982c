"""What `scores.jsonl` may look like, kills and old versions included."""

import json

import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.report.scores import read_run
from worldmodels.report.table import Exposure

MEANS = np.array([[0.0, 4.0, 8.0, 6.0, 5.0], [1.0, 1.0, 2.0, 7.0, 9.0]])


@pytest.fixture
def rows(streams):
    """Two tasks, two evaluations each."""
    return streams.rows_of(MEANS, ["a", "b"], per_exposure=2)


@pytest.fixture
def read(streams, tmp_path):
    def run(rows, **options):
        return read_run(streams.write_run(tmp_path / "run", rows, **options))

    return run


def test_a_whole_run(read, rows):
    run = read(rows, seed=3)
    table = run.table
    assert table.tasks == table.order == ("a", "b")
    assert table.steps.tolist() == [0, 100, 200, 300, 400]
    np.testing.assert_allclose(table.means, MEANS)
    assert table.exposures == (Exposure(0, 0, 2), Exposure(1, 2, 4))
    assert (run.seed, run.env, run.notes) == (3, "continual:small", ())


def test_two_cycles(read, streams):
    means = np.arange(10.0).reshape(2, 5)
    table = read(streams.rows_of(means, ["b", "a", "b", "a"], tasks=["a", "b"])).table
    assert table.tasks == ("b", "a")
    assert table.order == ("b", "a", "b", "a")
    assert table.exposures[2] == Exposure(0, 2, 3)
    np.testing.assert_allclose(table.means, means[::-1])


def test_the_order_of_lines_does_not_matter(read, rows):
    assert read(rows[::-1]).table.exposures == (Exposure(0, 0, 2), Exposure(1, 2, 4))


def test_of_two_evaluations_of_a_task_at_a_step_the_later_counts(read, rows, streams):
    run = read([*rows, streams.evaluation(200, "a", "a", 5.5)])
    assert run.table.means[0, 2] == 5.5
    assert run.notes == ()


def test_a_torn_line_is_passed_over_with_a_note(read, rows):
    run = read(rows[:-1], extra=[json.dumps(rows[-1])[:40]])
    assert run.table.steps.tolist() == [0, 100, 200, 300]
    torn, broken = run.notes
    assert "1 torn line passed over" in torn
    assert "not all tasks were evaluated there: step 400" in broken


def test_the_mean_is_that_of_all_episodes(read, rows):
    """A mean written in other units, as the published code does, is not taken."""
    rows[0] |= {"mean": 0.05, "returns": [1.0, 2.0, 6.0], "episodes": 3}
    assert read(rows).table.means[0, 0] == 3.0


def test_an_evaluation_that_stopped_at_the_first_episodes_is_passed_over(read, rows):
    """Short episodes end first: two of sixteen say nothing of the other fourteen."""
    rows[2] |= {"returns": [1.0, 2.0], "episodes": 16}
    run = read(rows)
    assert run.table.steps.tolist() == [0, 200, 300, 400]
    assert "1 evaluation passed over, cut short" in run.notes[0]


@pytest.mark.parametrize(
    "broken", [{"returns": [float("nan")], "episodes": 1}, {"returns": None, "mean": None}]
)
def test_a_mean_that_is_no_number_is_passed_over(read, rows, broken):
    rows[2] |= broken
    assert read(rows).table.steps.tolist() == [0, 200, 300, 400]


def test_step_0_belongs_to_the_first_task(read, rows):
    for row in rows[:2]:
        row["active"] = None
    assert read(rows).table.exposures[0] == Exposure(0, 0, 2)


def test_lines_of_old_runs_are_about_their_environment(read):
    rows = [{"kind": "eval", "env": "catch", "step": step, "mean": step / 100} for step in (50, 90)]
    table = read([*rows, {"kind": "train", "step": 7, "return": 1.0}]).table
    assert table.tasks == ("catch",)
    np.testing.assert_allclose(table.means, [[0.5, 0.9]])
    assert table.exposures == (Exposure(0, 0, 1),)


def test_the_environments_anchors(read, streams):
    rows = streams.rows_of(MEANS, ["a", "b"], per_exposure=2, random=1.5, reference=20)
    run = read(rows)
    assert run.random == {"a": 1.5, "b": 1.5}
    assert run.reference == {"a": 20.0, "b": 20.0}


def test_a_task_that_never_ran_is_left_out(read, rows, streams):
    rows += [streams.evaluation(step, "c", "a" if step < 300 else "b", 0.0) for step in (0, 100)]
    run = read(rows)
    assert run.table.tasks == ("a", "b")
    assert run.notes[0].endswith(
        "active at no evaluation after step 0, and left out: c (last mean return 0)"
    )


def test_levels_that_were_held_out_are_told_and_enter_nothing(read, streams):
    """A run on Procgen's limited levels: its evaluations are of the task and of all levels."""
    rows = [
        streams.evaluation(step, task, "procgen:coinrun", mean)
        for step in (0, 100, 200)
        for task, mean in (("procgen:coinrun", step / 50), ("procgen:coinrun all levels", 2.5))
    ]
    run = read(rows)
    assert run.table.tasks == ("procgen:coinrun",)
    np.testing.assert_allclose(run.table.means, [[0, 2, 4]])
    assert "procgen:coinrun all levels (last mean return 2.5)" in run.notes[0]


def test_training_long_after_the_last_evaluation_is_noted(streams, rows, tmp_path):
    late = {"kind": "train", "step": 290, "task": "a", "return": 1.0, "length": 9, "env": 0}
    (note,) = read_run(streams.write_run(tmp_path / "late", [*rows, late])).notes
    assert "training on a went on to step 290 or later, its last evaluation was at step 200" in note
    in_time = streams.write_run(tmp_path / "in_time", [*rows, late | {"step": 210}])
    assert read_run(in_time).notes == ()


def test_nothing_to_read(read, rows, streams, tmp_path):
    with pytest.raises(UserError, match="has no evaluations"):
        read([{"kind": "train", "step": 7, "return": 1.0}])
    only = [row for row in rows if (row["task"] == "a") == (row["step"] < 300)]
    with pytest.raises(UserError, match=r"no step at which all its tasks \(a, b\) were evaluated"):
        read_run(streams.write_run(tmp_path / "half", only))
    lost = streams.write_run(tmp_path / "lost", rows)
    (lost / "scores.jsonl").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_run(lost)


def test_a_task_without_a_whole_evaluation_is_refused(read, rows):
    del rows[-1], rows[-2]
    with pytest.raises(
        UserError, match="has no whole evaluation at the end of b; train it further"
    ):
        read(rows)


def test_lines_that_name_no_active_task_are_refused(read, rows):
    rows[4]["active"] = rows[5]["active"] = None
    with pytest.raises(UserError, match="does not say which task was active at step 200"):
        read(rows)
