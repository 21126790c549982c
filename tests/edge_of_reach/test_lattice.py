"""The study's own mathematics: exact values and footprints, the patch, off-policy targets."""

import math

import pytest
import torch

from worldmodels.envs.reach_config import ReachConfig
from worldmodels.imagination import imagine
from worldmodels.values.critics import CriticsEstimate


@pytest.fixture
def lattice(study):
    return study("truth").Lattice(ReachConfig())


@pytest.fixture
def policy(lattice):
    """Probabilities [C, A] of some policy."""
    return (2 * torch.randn(len(lattice.pay), 9)).softmax(-1)


def always(lattice, action: int):
    return torch.eye(9)[action].expand(len(lattice.pay), 9)


def test_values_solve_the_bellman_equation(lattice, policy):
    """Against a linear solve in float64."""
    count = len(lattice.pay)
    leads = torch.zeros(count, count, dtype=torch.float64)
    leads.index_put_(
        (torch.arange(count).repeat_interleave(9), lattice.after.flatten()),
        policy.double().flatten(),
        accumulate=True,
    )
    exact = torch.linalg.solve(torch.eye(count) - 0.9 * leads, lattice.pay.double())
    found = lattice.values(policy, 0.9, 200, torch.zeros(count))
    assert torch.allclose(found.double(), exact, atol=1e-4)


@pytest.mark.parametrize(("action", "worth"), [(7, -17.5), (4, 0.0), (8, -17.5)])
def test_footprint_of_one_way(lattice, action, worth):
    """Straight or slanting out: 0.5 m / 9 for m = 0 to 9, then -1 at each of the other 20 steps."""
    found = lattice.footprint(always(lattice, action))
    assert found["return"] == pytest.approx(worth, abs=1e-4)
    assert found["beyond"] == pytest.approx(20 / 30 if worth else 0)


def test_footprint_by_sampling(lattice, policy):
    cells, total = torch.full((20_000,), lattice.start), torch.zeros(20_000)
    for _ in range(30):
        total += lattice.pay[cells]
        cells = lattice.after[cells, policy[cells].multinomial(1).squeeze(1)]
    found = lattice.footprint(policy)
    assert found["return"] == pytest.approx(float(total.mean()), abs=4 * float(total.std()) / 141)
    assert sum(visits for *_, visits in found["visits"]) == pytest.approx(30, abs=1)


def test_features_are_those_of_a_run(study, lattice):
    run = study("lattice").Run(study("lattice").configuration("reach:ramp", {}), 0)
    assert torch.equal(lattice.feature[lattice.start], run.latents.feature[0, 0])
    assert torch.equal(lattice.cell_of(lattice.feature), torch.arange(len(lattice.pay)))


def test_what_lies_beyond_is_never_an_input(study, lattice):
    """Of any policy: here one that walks out in every direction."""
    run = study("lattice").Run(study("lattice").configuration("reach:ramp", {}), 0)
    model = run.learner.world_model

    class Outwards:
        action_size = 9

        def act(self, feature, *, generator=None, greedy=False):
            away = feature[:, :2].sign() + (feature[:, :2] == 0) * torch.randint(-1, 2, (2,))
            return torch.eye(9)[(3 * (away[:, 0] + 1) + away[:, 1] + 1).long()]

    feature = imagine(model, Outwards(), run.latents, 10).feature
    distance = lattice.distance(lattice.cell_of(feature))
    assert distance[:, :-1].max() == 9
    assert distance[:, -1].max() == 10


def test_the_patch_is_the_truth_beyond_and_nothing_else(study, lattice, policy):
    methods, make = study("methods"), study("lattice")
    critics = make.Run(
        make.configuration("reach:ramp", methods.LATTICE["oracle"]), 0
    ).learner.actor_critic.values
    critics.policy = lambda: policy
    feature = lattice.feature[torch.randint(len(lattice.pay), (64, 11))]
    estimate = CriticsEstimate(critics, feature)
    calls = [critics.bootstrap(estimate, feature, torch.tensor(1.0)) for _ in range(20)]
    patched = calls[-1]
    beyond = lattice.distance(lattice.cell_of(feature)) >= 10
    assert beyond.any()
    assert torch.equal(patched[~beyond], estimate.value[~beyond])
    truth = lattice.values(policy, critics.discount, 600, torch.zeros(len(lattice.pay)))
    assert torch.allclose(patched[beyond], truth[lattice.cell_of(feature)][beyond], atol=1e-2)


@pytest.mark.parametrize("method", ["plain", "patch", "min of 10 + prior 15"])
def test_soft_targets_by_loops(study, lattice, method):
    off = study("off_policy")
    run = off.Run(study("methods").OFF_POLICY[method], lattice, 0)
    here = torch.randint(len(lattice.pay), (12,))
    there = lattice.after[here, torch.randint(9, (12,))]
    found = run.target(here, there)
    for i in range(12):
        x, y = lattice.place[there[i]].tolist()
        members = run.slow(lattice.feature[there[i], :2][None])[:, 0].double().tolist()
        least = [min(column) for column in zip(*members, strict=True)]
        scaled = [math.exp((q - max(least)) / 0.02) for q in least]
        chance = [one / sum(scaled) for one in scaled]
        value = sum(
            p * q - (0.02 * p * math.log(p) if p else 0) for p, q in zip(chance, least, strict=True)
        )
        if method == "patch" and max(abs(x), abs(y)) >= 10:
            value = -60.0
        assert float(found[i]) == pytest.approx(
            float(lattice.pay[here[i]]) + 0.99 * value, abs=2e-4
        )


def test_off_policy_priors_have_mean_0_and_deviation_1_inside(study, lattice):
    off = study("off_policy")
    run = off.Run(off.Method(critics=3, prior=2.0), lattice, 0)
    inside = lattice.distance(torch.arange(len(lattice.pay))) <= 9
    feature = run.feature[inside]
    learned = torch.stack([network(feature) for network in run.critics.learned])
    priors = (run.critics(feature) - learned) / 2
    assert torch.allclose(priors.mean(1), torch.zeros(3, 9), atol=1e-4)
    assert torch.allclose(priors.std(1), torch.ones(3, 9), atol=1e-4)


def test_transitions_that_are_drawn_are_steps_of_the_lattice(study, lattice):
    off = study("off_policy")
    run = off.Run(off.Method(), lattice, 0)
    for _ in range(3):
        run.roll()
    here, action, there = run.draw()
    assert torch.equal(lattice.after[here, action], there)
    assert lattice.distance(here).max() <= 9
