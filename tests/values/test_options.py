"""Options of values: bounds, and no option that does nothing."""

from typing import Any

import pytest

from worldmodels.errors import UserError
from worldmodels.values.configs import ValuesConfig


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"critics": 0}, "values.critics is at least 1, not 0"),
        ({"prior_scale": float("inf")}, "values.prior_scale is finite, not inf"),
        ({"lcb": float("nan"), "reducer": "lcb"}, "values.lcb is at least 0, not nan"),
        ({"memory": 20}, "values.memory is a multiple of 16, not 20"),
        ({"reducer": "subset_min", "subset": 6}, "values.subset is at most values.critics, 5"),
        ({"diversity": "spread", "critics": 1}, "needs values.critics of at least 2"),
        ({"lcb": 2.0}, "values.lcb does something with --values.reducer lcb only"),
        ({"subset": 3, "reducer": "lcb"}, "with --values.reducer subset_min only"),
        ({"diversity_weight": 1.0}, "with --values.diversity gradient or spread only"),
        ({"novelty": "rnd", "reach_penalty": 0.0}, "with --values.reach-penalty above 0 only"),
        ({"memory": 32, "novelty": "exact"}, "values.memory does something with --values.novelty"),
        ({"memory": 32, "reach_penalty": 0.0}, "values.memory does something with"),
    ],
)
def test_what_is_refused(options: Any, text: str):
    with pytest.raises(UserError) as error:
        ValuesConfig(kind="ravl", **options)
    assert text in str(error.value)


def test_options_that_work_together():
    ValuesConfig(kind="ravl", reducer="lcb", lcb=2.0, diversity="spread", diversity_weight=1.0)
    ValuesConfig(kind="ravl", reducer="subset_min", subset=3, novelty="knn", memory=32)
    ValuesConfig(kind="my_file.py:MyValues", lcb=2.0, memory=32, reach_penalty=0.0)


def test_plain_has_no_options():
    with pytest.raises(UserError, match=r"values\.critics is an option of --values\.kind ravl"):
        ValuesConfig(critics=2)
