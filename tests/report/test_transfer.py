"""Forward transfer by hand; anchors, units and zero denominators."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodels.errors import UserError
from worldmodels.report.references import (
    Curve,
    Normaliser,
    choose_normaliser,
    single_task_curves,
)
from worldmodels.report.scorecard import score
from worldmodels.report.table import Exposure, RunScores, ScoreTable
from worldmodels.report.transfer import Transfer, area, auc_transfer, relative_transfer

STEPS = np.array([0, 50, 100, 150, 200])
TABLE = ScoreTable(
    ("a", "b"),
    STEPS,
    np.array([[10.0, 14.0, 18.0, 11.0, 12.0], [-5.0, -4.0, -5.0, -5.0, 0.0]]),
    (Exposure(0, 0, 2), Exposure(1, 2, 4)),
)
CURVES = {
    "a": Curve("a", STEPS[:3], np.array([10.0, 11.0, 20.0]), ("alone/a",)),
    "b": Curve("b", STEPS[:3], np.array([-5.0, 0.0, 5.0]), ("alone/b",)),
}
NORMALISER = Normaliser(("a", "b"), np.array([10.0, -5.0]), np.array([20.0, 5.0]), "by hand")
"""Task a: .4 .8 in its window, alone .1 1.0. Task b: 0 .5, alone .5 1.0."""


def test_normalised_score():
    np.testing.assert_allclose(NORMALISER(TABLE.means)[0], [0, 0.4, 0.8, 0.1, 0.2])
    np.testing.assert_allclose(NORMALISER(TABLE.means)[1], [0, 0.1, 0, 0, 0.5])


def test_area_weighs_by_steps():
    assert area(np.array([1.0, 0.0]), np.array([0, 10, 40])) == pytest.approx(10 / 40)


def test_forward_transfer_of_continual_world():
    """Areas .6 against .55, and .25 against .75."""
    wanted = [(0.6 - 0.55) / (1 - 0.55), (0.25 - 0.75) / (1 - 0.75)]
    np.testing.assert_allclose(Transfer(TABLE, NORMALISER, CURVES).auc(), wanted)


def test_forward_transfer_relative():
    wanted = [(0.6 - 0.55) / 0.55, (0.25 - 0.75) / 0.75]
    np.testing.assert_allclose(Transfer(TABLE, NORMALISER, CURVES).relative(), wanted)


def test_forward_transfer_aligned():
    """a: gains 4 and 8 over 1 and 10; b: 0 and 5 over 5 and 10."""
    wanted = [(4 / 1 + 8 / 10) / 2 - 1, (0 / 5 + 5 / 10) / 2 - 1]
    np.testing.assert_allclose(Transfer(TABLE, NORMALISER, CURVES).aligned(), wanted)


def test_single_task_evaluations_at_other_steps_are_interpolated():
    """Alone at 25 and 75: after 50 steps the return is half way between."""
    curve = Curve("a", np.array([0, 25, 75, 100]), np.array([10.0, 10, 12, 20]), ("alone/a",))
    found = Transfer(TABLE, NORMALISER, CURVES | {"a": curve}).relative()
    np.testing.assert_allclose(found[0], (0.6 - 0.55) / 0.55)


def test_the_second_cycle_is_compared_with_later_training():
    """Three evaluations alone, 50 steps apart; each exposure lasts 50."""
    table = ScoreTable(
        ("a", "b"),
        STEPS,
        np.array([[10.0, 14.0, 0.0, 18.0, 0.0], [-5.0, 0.0, 0.0, 0.0, 10.0]]),
        (Exposure(0, 0, 1), Exposure(1, 1, 2), Exposure(0, 2, 3), Exposure(1, 3, 4)),
    )
    first = Transfer(table, NORMALISER, CURVES).relative()
    np.testing.assert_allclose(first, [(0.4 - 0.1) / 0.1, (0.5 - 0.5) / 0.5], atol=1e-12)
    second = Transfer(table, NORMALISER, CURVES, 1).relative()
    np.testing.assert_allclose(second, [(0.8 - 1.0) / 1.0, (1.5 - 1.0) / 1.0])


def test_the_single_task_run_itself_transfers_nothing():
    table = ScoreTable(("a",), STEPS[:3], CURVES["a"].means[None], (Exposure(0, 0, 2),))
    one = Normaliser(("a",), np.array([10.0]), np.array([20.0]), "by hand")
    transfer = Transfer(table, one, CURVES)
    assert transfer.auc() == transfer.relative() == transfer.aligned() == pytest.approx([0.0])


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        (lambda: auc_transfer(0.5, 1.0, "a"), "single-task run of a has AUC_ref = 1"),
        (lambda: auc_transfer(0.5, 1.2, "a"), "left nothing to gain"),
        (lambda: relative_transfer(0.5, 0.0, "a"), "for task a is 0: no better than random"),
        (lambda: relative_transfer(0.5, -0.1, "a"), "no better than random play"),
    ],
)
def test_zero_denominators_of_transfer(compute, sentence):
    with pytest.raises(UserError, match=sentence):
        compute()


def test_a_reference_that_starts_late_is_not_aligned():
    flat = Curve("b", STEPS[:3], np.array([-5.0, -5.0, 5.0]), ("alone/b",))
    with pytest.raises(UserError, match="single-task run of b is no better than random"):
        Transfer(TABLE, NORMALISER, CURVES | {"b": flat}).aligned()
    card = score(TABLE, NORMALISER, CURVES | {"b": flat})
    assert card.values["forward_transfer_aligned"] is None
    assert card.values["forward_transfer"] is not None
    assert "forward_transfer_aligned is not defined" in card.notes[0]


def test_a_short_single_task_run_is_refused():
    short = Curve("a", STEPS[:2], np.array([10.0, 20.0]), ("alone/a",))
    with pytest.raises(UserError, match="needs a single-task run of 100 steps, and alone/a has 50"):
        Transfer(TABLE, NORMALISER, CURVES | {"a": short}).auc()


@pytest.mark.parametrize("reference", [3.0, 2.5])
def test_a_reference_no_better_than_random_is_refused(reference):
    sentence = r"scores of b cannot be normalised: .* is not above the random score 3"
    with pytest.raises(UserError, match=sentence):
        Normaliser(("a", "b"), np.array([0.0, 3.0]), np.array([1.0, reference]), "by hand")


def test_a_table_of_other_tasks_is_not_normalised():
    with pytest.raises(ValueError, match="3 rows for 2 tasks"):
        NORMALISER(np.zeros((3, 4)))


def run(path, table, random=None, reference=None) -> RunScores:
    options = {"env": {"name": "continual:small"}}
    return RunScores(path, options, table, random or {}, reference or {}, ())


def alone(path, task, means, steps=STEPS[:3]) -> RunScores:
    table = ScoreTable((task,), steps, np.array([means], float), (Exposure(0, 0, len(steps) - 1),))
    return run(path, table)


def test_seeds_of_a_single_task_are_averaged():
    curves = single_task_curves([alone("a0", "a", [10, 11, 20]), alone("a1", "a", [12, 13, 30])])
    np.testing.assert_allclose(curves["a"].means, [11, 12, 25])
    assert curves["a"].runs == ("a0", "a1")


def test_seeds_of_a_single_task_meet_at_their_common_steps():
    other = alone("a1", "a", [12, 30], np.array([0, 100]))
    curves = single_task_curves([alone("a0", "a", [10, 11, 20]), other])
    assert curves["a"].steps.tolist() == [0, 100]
    never = alone("a2", "a", [1, 2], np.array([0, 99]))
    with pytest.raises(UserError, match=r"a0, a2\) have fewer than two evaluations at the same"):
        single_task_curves([alone("a0", "a", [10, 11, 20]), never])


def test_a_stream_is_no_single_task_run():
    with pytest.raises(UserError, match="stream/0 is no single-task run: it was trained on a, b"):
        single_task_curves([run("stream/0", TABLE)])


def test_anchors_are_those_of_the_single_task_runs():
    """Even where the environment has its own."""
    own = run("stream/0", TABLE, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0})
    found, notes = choose_normaliser([own], CURVES)
    np.testing.assert_allclose(found.random, [10, -5])
    np.testing.assert_allclose(found.reference, [20, 5])
    assert notes == ()


def test_random_play_without_step_0_of_the_single_task_run_is_that_of_the_streams():
    late = {"a": Curve("a", STEPS[1:3], np.array([11.0, 20.0]), ("alone/a",))}
    found, _ = choose_normaliser([run("stream/0", TABLE)], CURVES | late)
    np.testing.assert_allclose(found.random, [10, -5])


def test_missing_references_are_named_with_their_command():
    with pytest.raises(UserError) as error:
        choose_normaliser([run("stream/0", TABLE)], {"a": CURVES["a"]})
    assert "no single-task run of b to normalise by" in str(error.value)
    assert "`worldmodels train continual:small --env.task b`" in str(error.value)


def test_the_environments_own_scores_take_over_where_all_are_known():
    own = run("stream/0", TABLE, {"a": 9.0}, {"a": 29.0, "b": 15.0})
    found, notes = choose_normaliser([own], {"a": CURVES["a"]})
    np.testing.assert_allclose(found.random, [9.0, -5.0])  # b: the stream at step 0
    np.testing.assert_allclose(found.reference, [29.0, 15.0])
    assert "No single-task run of b" in notes[0]
    partly = run("stream/0", TABLE, {"a": 9.0}, {"a": 29.0})
    with pytest.raises(UserError, match="no single-task run of a, b"):
        choose_normaliser([partly], {})


def test_scaled_and_raw_units_do_not_mix():
    """Frostbite as published: random play 14.48 is in units of 0.2, the reference 297.83 is raw.

    Taken together, an agent that plays at random (72.4) would be at 0.2 instead of 0.
    """
    assert pytest.approx(0.2, abs=0.01) == (72.4 - 14.48) / (297.83 - 14.48)
    raw = run("raw", TABLE, {"a": 72.4, "b": 0.0}, {"a": 297.83, "b": 1.0})
    scaled = run("scaled", TABLE, {"a": 14.48, "b": 0.0}, {"a": 297.83, "b": 1.0})
    assert choose_normaliser([raw], {})[0].one(0, np.array([72.4]))[0] == 0
    with pytest.raises(UserError, match="raw and scaled disagree on the random score of a"):
        choose_normaliser([raw, scaled], {})


@given(st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_units_of_the_raw_returns_do_not_matter(scale, offset):
    """Rewards in other units, in the stream and alone, leave every number as it is."""
    table = ScoreTable(TABLE.tasks, TABLE.steps, scale * TABLE.means + offset, TABLE.exposures)
    curves = {
        task: Curve(task, one.steps, scale * one.means + offset, one.runs)
        for task, one in CURVES.items()
    }
    before = score(TABLE, choose_normaliser([run("x", TABLE)], CURVES)[0], CURVES)
    after = score(table, choose_normaliser([run("x", table)], curves)[0], curves)
    assert before.values.keys() == after.values.keys()
    for name, value in before.values.items():
        assert after.values[name] == (None if value is None else pytest.approx(value, abs=1e-6))


def test_without_single_task_curves_there_is_no_forward_transfer():
    values = score(TABLE, NORMALISER, {}).values
    assert {name for name, value in values.items() if value is None} >= {
        "forward_transfer",
        "forward_transfer_relative",
        "forward_transfer_aligned",
    }
    assert values["acc"] == pytest.approx((0.2 + 0.5) / 2)
