"""Every metric against arithmetic done by hand, and against what must hold for any scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldmodels.errors import UserError
from worldmodels.report import continual as metric
from worldmodels.report.table import Exposure

Q = np.array(
    [  # step 0 | task 0  | task 1  | task 2
        [0.0, 0.5, 0.8, 0.6, 0.7, 0.2, 0.4],
        [0.0, 0.1, 0.2, 0.4, 1.0, 0.9, 0.5],
        [0.0, 0.0, -0.1, 0.1, 0.3, 0.9, 0.6],
    ]
)
ONE = (Exposure(0, 0, 2), Exposure(1, 2, 4), Exposure(2, 4, 6))
CYCLED = np.array(
    [  # step 0 | 0 | 1 | 0 | 1
        [0.0, 0.8, 0.2, 1.0, 0.6],
        [0.0, 0.1, 0.5, 0.3, 0.4],
    ]
)
TWO = (Exposure(0, 0, 1), Exposure(1, 1, 2), Exposure(0, 2, 3), Exposure(1, 3, 4))
NAN = float("nan")


def close(found, wanted):
    np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), atol=1e-12)


def test_average_performance_counts_unseen_tasks():
    close(metric.average_performance(Q)[2], (0.8 + 0.2 - 0.1) / 3)
    close(metric.average_performance(Q)[-1], 0.5)


def test_accuracy():
    close(metric.accuracy(Q, ONE), [0.8, (0.7 + 1.0) / 2, (0.4 + 0.5 + 0.6) / 3])
    close(
        metric.accuracy(CYCLED, TWO),
        [0.8, (0.2 + 0.5) / 2, (1.0 + 0.3) / 2, (0.6 + 0.4) / 2],
    )


def test_forgetting():
    close(metric.forgetting(Q, ONE), [0.8 - 0.4, 1.0 - 0.5, 0.0])
    close(metric.forgetting(CYCLED, TWO), [1.0 - 0.6, 0.0])


def test_smoothed_forgetting():
    """The last exposure has two evaluations, so that scores are means of two."""
    first = (0.5 + 0.8) / 2 - (0.2 + 0.4) / 2
    second = (0.4 + 1.0) / 2 - (0.9 + 0.5) / 2
    close(metric.smoothed_forgetting(Q, ONE), [first, second, 0.0])
    close(metric.smoothed_forgetting(Q, ONE, last=1), metric.forgetting(Q, ONE))


def test_smoothed_forgetting_takes_five_evaluations():
    q = np.array([[0.0, *[1.0] * 5, *[0.2] * 7], [0.0, *[0.0] * 5, *[1.0] * 7]])
    q[0, 6] = q[0, 7] = 99.0  # older than the last five
    close(metric.smoothed_forgetting(q, (Exposure(0, 0, 5), Exposure(1, 5, 12))), [0.8, 0.0])


def test_forgetting_by_cycle():
    close(metric.cycle_forgetting(CYCLED, TWO), [[0.8 - 0.2, 0.0], [1.0 - 0.6, 0.0]])


def test_backward_transfer():
    close(metric.backward_transfer(Q, ONE), -(0.4 + 0.5) / 2)
    close(metric.backward_transfer(CYCLED, TWO), -(1.0 - 0.6))


def test_isolated_forgetting_and_zero_shot_transfer():
    close(
        metric.isolated_forgetting(Q, ONE),
        [[NAN, 0.8 - 0.7, 0.7 - 0.4], [NAN, NAN, 1.0 - 0.5], [NAN, NAN, NAN]],
    )
    close(
        metric.zero_shot_transfer(Q, ONE),
        [[NAN, NAN, NAN], [0.2 - 0.0, NAN, NAN], [-0.1 - 0.0, 0.3 + 0.1, NAN]],
    )


def test_minimum_accuracy():
    """min(.6 .7) for two tasks; min(.6 .7 .2 .4) and min(.9 .5) for three."""
    none, two, three = metric.minimum_accuracy(Q, ONE)
    assert none is None
    close([two, three], [0.6, (0.2 + 0.5) / 2])
    close(metric.minimum_accuracy(CYCLED, TWO)[1:], [0.2, 0.3, min(0.2, 1.0, 0.6)])


def test_the_minimum_is_over_evaluations_after_the_task_alone():
    """t_i < n: the .3 at the end of its own training does not count."""
    q = np.array([[0.0, 0.3, 0.7, 0.6], [0.0, 0.0, 0.0, 1.0]])
    close(metric.minimum_accuracy(q, (Exposure(0, 0, 1), Exposure(1, 1, 3)))[1], 0.6)


def test_worst_case_accuracy():
    close(
        metric.worst_case_accuracy(Q, ONE),
        [0.8, 1.0 / 2 + 0.6 / 2, 0.6 / 3 + (2 / 3) * (0.2 + 0.5) / 2],
    )
    close(metric.worst_case_accuracy(CYCLED, TWO)[-1], 0.4 / 2 + 0.2 / 2)


def test_plasticity_is_the_maximum_of_the_first_exposure():
    close(metric.plasticity(Q, ONE), [0.8, 1.0, 0.9])
    close(metric.plasticity(CYCLED, TWO), [0.8, 0.5])


def test_two_cycles():
    close(metric.maximum_forgetting(CYCLED, TWO), [0.8 - 0.2, 0.5 - 0.3])
    close(metric.recovery(CYCLED, TWO, "ab"), [1.0 / 0.8, 0.4 / 0.5])


def test_one_cycle_has_no_recovery():
    assert metric.maximum_forgetting(Q, ONE) is None
    assert metric.recovery(Q, ONE, "abc") is None


def test_recovery_from_nothing_is_refused():
    q = CYCLED.copy()
    q[1, 2] = 0.0
    with pytest.raises(UserError, match=r"recovery divides .* for task moved is that of random"):
        metric.recovery(q, TWO, ("plain", "moved"))


def test_a_single_task():
    q, alone = Q[:1, :3], ONE[:1]
    assert metric.backward_transfer(q, alone) is None
    assert metric.minimum_accuracy(q, alone) == [None]
    close(metric.worst_case_accuracy(q, alone), [0.8])
    close(metric.forgetting(q, alone), [0.0])


@st.composite
def streams(draw, most=3):
    """Normalised scores and exposures: 1 to 4 tasks, 1 to 3 evaluations each, `most` cycles."""
    tasks, lengths = draw(st.integers(1, 4)), st.integers(1, 3)
    count = (
        draw(st.integers(1, most)) if tasks > 1 else 1
    )  # a task that follows itself is one exposure
    exposures, column = [], 0
    for task in list(range(tasks)) * count:
        length = draw(lengths)
        exposures.append(Exposure(task, column, column + length))
        column += length
    score = st.floats(-2, 8, width=32)
    return draw(arrays(float, (tasks, column + 1), elements=score)), tuple(exposures)


@given(streams(most=1))
def test_isolated_terms_add_up(stream):
    """Telescoping: what the tasks after i took is F_i, what those before gave is the head start."""
    q, exposures = stream
    np.testing.assert_allclose(
        np.nansum(metric.isolated_forgetting(q, exposures), 1),
        metric.forgetting(q, exposures),
        atol=1e-6,
    )
    start = np.array([q[e.task, e.first] - q[e.task, 0] for e in exposures])
    np.testing.assert_allclose(
        np.nansum(metric.zero_shot_transfer(q, exposures), 1), start, atol=1e-6
    )


@given(streams())
def test_bounds(stream):
    q, exposures = stream
    acc, worst = metric.accuracy(q, exposures), metric.worst_case_accuracy(q, exposures)
    assert (worst <= acc + 1e-9).all()
    assert acc[-1] == pytest.approx(metric.average_performance(q)[-1])
    ends = np.array([q[e.task, e.last] for e in metric.by_cycle(exposures)[0]])
    assert (metric.plasticity(q, exposures) >= ends).all()
    assert metric.forgetting(q, exposures)[exposures[-1].task] == 0


@given(streams())
def test_backward_transfer_is_forgetting_of_the_other_tasks(stream):
    q, exposures = stream
    tasks = len(q)
    forgotten = metric.forgetting(q, exposures).mean()
    backward = metric.backward_transfer(q, exposures)
    if tasks == 1:
        assert backward is None
    else:
        assert backward == pytest.approx(-forgotten * tasks / (tasks - 1), abs=1e-6)


@given(streams())
def test_nothing_forgotten_is_zero(stream):
    """Scores that stay where an exposure left them."""
    q, exposures = stream
    for e in exposures:
        q[e.task, e.last :] = q[e.task, e.last]
    assert (metric.forgetting(q, exposures) == 0).all()
    assert (np.nan_to_num(metric.isolated_forgetting(q, exposures)) == 0).all()
    assert (metric.cycle_forgetting(q, exposures) == 0).all()
    lost = metric.maximum_forgetting(q, exposures)
    assert lost is None or (lost == 0).all()
    last = metric.minimum_accuracy(q, exposures)[-1]
    if last is not None and len(exposures) == len(q):
        assert last == pytest.approx(np.delete(q[:, -1], exposures[-1].task).mean())
