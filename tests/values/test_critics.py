"""Loss, priors, slow copies and reach penalty of an ensemble, against plain float64 loops."""

import copy

import pytest
import torch

from tests.values.test_ensemble import F, make_critics
from worldmodels.distributions import default_bins
from worldmodels.values.diversity import diversity

N, T = 3, 4


def two_hot_cross_entropy(logits: torch.Tensor, y: float) -> float:
    bins = default_bins().double()
    low = max(k for k in range(254) if float(bins[k]) <= y)
    up = (y - float(bins[low])) / float(bins[low + 1] - bins[low])
    log_p = torch.log_softmax(logits.double(), 0)
    return -float((1 - up) * log_p[low] + up * log_p[low + 1])


def expectation(logits: torch.Tensor) -> float:
    p, bins = torch.softmax(logits.detach().double(), -1), default_bins().double()
    return float(sum((p[254 - k] - p[k]) * bins[254 - k] for k in range(127)))


def prior_by_hand(critics, first: torch.Tensor, feature: torch.Tensor, beta: float) -> torch.Tensor:
    """beta (p - mean) / deviation, both over the first batch, in float64."""
    columns = []
    for head in copy.deepcopy(critics.priors.networks).double().members:
        seen = head(first.double()).flatten()
        deviation = ((seen - seen.mean()) ** 2).mean().sqrt()
        columns.append(beta * (head(feature.double()).squeeze(-1) - seen.mean()) / deviation)
    return torch.stack(columns)


def test_loss_is_the_sum_over_members_of_both_cross_entropies():
    critics = make_critics(critics=3, prior_scale=0.5, reach_penalty=0.0)
    feature = torch.randn(N, T, F)
    target = torch.randn(N, T - 1) * 4
    estimate = critics(feature)
    found = estimate.loss(target).detach()
    prior = prior_by_hand(critics, feature, feature, 0.5)
    for n in range(N):
        for t in range(T - 1):
            expected = 0.0
            for i in range(3):
                logits = critics.critics.members[i](feature[n, t]).detach()
                slow = expectation(critics.slow.members[i](feature[n, t]))
                expected += two_hot_cross_entropy(logits, float(target[n, t] - prior[i, n, t]))
                expected += two_hot_cross_entropy(logits, slow)
            assert float(found[n, t]) == pytest.approx(expected, rel=1e-4)


def test_a_state_learns_from_the_mean_of_the_critics_losses():
    """Five equal critics shape it as much as one of them does, and not five times as much."""
    feature, target, slopes = torch.randn(N, T, F), torch.randn(N, T - 1) * 4, []
    head = make_critics(critics=1, prior_scale=0.0, reach_penalty=0.0).critics.members[0]
    for count in (1, 5):
        critics = make_critics(critics=count, prior_scale=0.0, reach_penalty=0.0)
        for member in [*critics.critics.members, *critics.slow.members]:
            member.load_state_dict(head.state_dict())
        state = feature.clone().requires_grad_()
        loss = critics(state).loss(target).sum()
        weight = next(critics.critics.members[0].parameters())
        slopes.append(torch.autograd.grad(loss, [state, weight]))
    assert all(bool(slope.any()) for slope in slopes[0])
    torch.testing.assert_close(slopes[1], slopes[0])  # and each critic learns as one alone does


def test_a_prior_is_part_of_the_value_and_frozen():
    critics = make_critics(critics=3, prior_scale=0.5, reach_penalty=0.0)
    first, feature = torch.randn(N, T, F), torch.randn(N, T, F)
    critics(first)
    estimate = critics(feature)
    prior = prior_by_hand(critics, first, feature, 0.5)
    for i in range(3):
        logits = critics.critics.members[i](feature)
        for n in range(N):
            for t in range(T):
                expected = expectation(logits[n, t]) + float(prior[i, n, t])
                assert float(estimate.members[i, n, t]) == pytest.approx(
                    expected, rel=1e-3, abs=1e-3
                )
    estimate.loss(torch.randn(N, T - 1)).sum().backward()
    for name, p in critics.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == name.startswith("critics."), name


def test_priors_survive_a_state_dict_and_follow_the_range_in_doublings():
    critics = make_critics(critics=2, prior_scale=0.5, reach_penalty=0.0)
    feature = torch.randn(N, T, F)
    before = critics(feature).members.clone()
    other = make_critics(critics=2, prior_scale=0.5, reach_penalty=0.0)
    assert not torch.equal(other(feature).members, before)
    other.load_state_dict(critics.state_dict())
    assert torch.equal(other(feature).members, before)
    prior = critics.priors(feature)
    for scale, factor in ((1.9, 1.0), (2.5, 2.5), (4.9, 2.5), (1.0, 2.5), (5.0, 5.0)):
        critics.after_update(torch.tensor(scale))
        torch.testing.assert_close(critics.priors(feature), prior * factor)


def test_only_what_is_learned_settles_the_priors():
    """A run evaluates before its first update; those few states must not be the measure."""
    critics = make_critics(critics=2, prior_scale=0.5, reach_penalty=0.0)
    before = copy.deepcopy(critics.state_dict())
    with torch.no_grad():
        critics(torch.zeros(8, 1, F))
    assert all(torch.equal(x, before[name]) for name, x in critics.state_dict().items())
    feature = torch.randn(N, T, F)
    critics(feature)
    prior = critics.priors(feature).flatten(1)
    torch.testing.assert_close(prior.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(prior.std(1, correction=0), torch.full((2,), 0.5))


def test_slow_copies_move_by_their_rate_member_by_member():
    critics = make_critics(critics=2)
    old = copy.deepcopy(critics.slow)
    critics.after_update(torch.tensor(1.0))
    for slow, before, fast in zip(
        critics.slow.parameters(), old.parameters(), critics.critics.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, 0.98 * before + 0.02 * fast)


def test_the_reach_penalty_falls_on_novel_last_states_alone():
    critics = make_critics(critics=2, prior_scale=0.0, reach_penalty=0.3, novelty="exact")
    feature = torch.randn(2, 4, F)
    feature[0, 3] = feature[1, 0]  # an input of the other rollout
    estimate = critics(feature)
    found = critics.bootstrap(estimate, feature, torch.tensor(5.0))
    expected = estimate.value.clone()
    expected[1, 3] -= 0.3 * 5.0
    torch.testing.assert_close(found, expected)


def test_without_penalty_the_bootstrap_is_the_value():
    critics = make_critics(critics=2, reach_penalty=0.0)
    feature = torch.randn(2, 4, F)
    estimate = critics(feature)
    assert torch.equal(critics.bootstrap(estimate, feature, torch.tensor(5.0)), estimate.value)
    assert critics.losses(estimate, feature, torch.tensor(5.0)) == critics.weights() == {}


def test_novelty_learns_at_inputs_and_critics_part_at_the_end():
    critics = make_critics(critics=2, novelty="rnd", diversity="spread")
    feature, span = torch.randn(4, 3, F), torch.tensor(5.0)
    estimate = critics(feature)
    critics.bootstrap(estimate, feature, span)
    assert critics.novelty is not None
    losses = critics.losses(estimate, feature, span)
    assert torch.equal(losses["novelty"], critics.novelty.loss(feature[:, :-1]))
    assert torch.equal(losses["diversity"], diversity(critics, feature[:, -1], span))
