"""Summaries over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodels.report.seeds import summarise

VALUES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=7)


def test_by_hand():
    """Quartiles lie a quarter of the way: 1 2 4 8 11 at places 1, 2 and 3 of 0 ... 4."""
    found = summarise([8.0, 1.0, 11.0, 4.0, 2.0])
    assert (found["seeds"], found["q25"], found["median"], found["q75"]) == (5, 2, 4, 8)
    assert found["mean"] == pytest.approx(26 / 5)


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = summarise(values.tolist())["mean_interval"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_interval_of_the_median_of_three():
    """A resample of 1 2 9 has the median 1 with probability 7/27: far above 2.5 %."""
    assert summarise([1.0, 2.0, 9.0])["median_interval"] == [1.0, 9.0]


def test_two_seeds_have_no_interval():
    found = summarise([1.0, 2.0])
    assert found["median_interval"] is found["mean_interval"] is None


@given(VALUES, st.randoms())
def test_the_order_of_seeds_does_not_matter(values, random):
    shuffled = values[:]
    random.shuffle(shuffled)
    assert summarise(values) == summarise(shuffled)


@given(VALUES)
def test_intervals_hold_what_they_are_of(values):
    found = summarise(values)
    assert found["q25"] <= found["median"] <= found["q75"]
    if found["median_interval"]:
        low, high = found["median_interval"]
        assert min(values) <= low <= found["median"] <= high <= max(values)
