"""The diagnosis of edge-of-reach: brute force, and cases with a known answer."""

import pytest
import torch

from worldmodels.returns import ReturnNormalizer
from worldmodels.values.reach import reach_statistics

L, F = 6, 3


def walk(lengths: torch.Tensor) -> torch.Tensor:
    """Rollouts along the first axis by so much a step: [M, L+1, F]."""
    steps = torch.arange(L + 1.0) * lengths[:, None]
    return torch.stack([steps, torch.zeros_like(steps), torch.zeros_like(steps)], -1)


def far(feature: torch.Tensor) -> float:
    members = torch.zeros(1, *feature.shape[:2])
    return float(reach_statistics(feature, members, members[0])["reach/far"])


def test_a_policy_that_walks_straight_out_ends_where_nothing_is_learned():
    assert far(walk(torch.ones(40))) == 1.0


def test_a_policy_that_stays_where_it_was_does_not():
    torch.manual_seed(0)
    assert far(torch.randn(200, L + 1, F)) < 0.15
    circle = walk(torch.ones(40))
    circle[:, -1] = circle[:, 2]  # the last step leads back
    assert far(circle) == 0.0


def test_share_by_brute_force():
    torch.manual_seed(1)
    feature = torch.randn(100, L + 1, F).cumsum(1)
    inputs = [x for rollout in feature[0::2] for x in rollout[:-1]]
    nearest = [
        [min(float((end - x).norm()) for x in inputs) for end in rollout[-2:]]
        for rollout in feature[1::2]
    ]
    usual = sorted(before for before, _ in nearest)[int(0.95 * (len(nearest) - 1))]
    expected = sum(after > usual for _, after in nearest) / len(nearest)
    assert far(feature) == pytest.approx(expected)


def test_values_and_spreads():
    members = torch.randn(3, 4, L + 1)
    found = reach_statistics(torch.randn(4, L + 1, F), members, members.amin(0))
    value, spread = members.amin(0), members.std(0, correction=0)
    assert found["reach/value_inside"] == value[:, :-1].mean()
    assert found["reach/value_edge"] == value[:, -1].mean()
    assert found["reach/spread_inside"] == spread[:, :-1].mean()
    assert found["reach/spread_edge"] == spread[:, -1].mean()


def test_one_rollout_has_no_other_to_compare_with():
    members = torch.zeros(1, 1, L + 1)
    found = reach_statistics(torch.randn(1, L + 1, F), members, members[0])
    assert "reach/far" not in found


@pytest.mark.parametrize(
    ("low", "high", "span"),
    [(3.0, 8.0, 8.0), (-5.0, -2.0, 5.0), (-5.0, 8.0, 13.0), (0.1, 0.4, 1.0)],
)
def test_span_is_the_range_of_returns_and_nothing(low, high, span):
    normalizer = ReturnNormalizer()
    normalizer.range.copy_(torch.tensor([low, high]))
    assert float(normalizer.span) == pytest.approx(span)
