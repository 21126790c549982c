"""The study in short: the failure, its cause, and what holds. Each run takes half a minute."""

from statistics import median

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def play(study):
    """What is measured of a method after so many updates in true dynamics."""

    def run(method: str, seed: int, updates: int, task: str = "reach:ramp") -> dict[str, float]:
        config = study("lattice").configuration(task, study("methods").LATTICE[method])
        one = study("lattice").Run(config, seed)
        for _ in range(updates):
            one.update()
        return one.measure()

    return run


@pytest.mark.parametrize("seed", [0, 1])
def test_plain_walks_off_and_believes_in_it(play, seed):
    found = play("plain", seed, 1200)
    assert found["return"] < 0
    assert found["value_end"] - found["true_end"] > 20
    assert found["edge"] > 0.5


@pytest.mark.parametrize("method", ["min", "min+gradient"])
def test_a_minimum_without_priors_is_no_cure(play, method):
    assert median(play(method, seed, 600)["return"] for seed in (0, 1, 2)) < 0


def test_a_mean_with_priors_is_no_cure(play):
    assert median(play("mean+prior", seed, 600)["return"] for seed in (1, 2, 3)) < 0


def test_the_truth_at_the_edge_alone_keeps_the_policy_inside(play):
    for seed in (0, 1):
        found = play("oracle", seed, 2400)
        assert found["return"] > 8
        assert found["edge"] < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", ["exact", "knn", "ravl"])
def test_cures_hold(play, method, seed):
    found = play(method, seed, 1200)
    assert found["return"] > 5
    assert found["edge"] < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ravl_holds_early_and_is_no_more_than_the_truth(play, seed):
    found = play("ravl", seed, 600)
    assert found["return"] > 5
    assert found["edge"] < 0.1
    assert found["value_start"] <= found["true_start"] + 1


def test_no_cost_where_no_edge_tempts(play):
    plain, ravl = (play(method, 0, 1200, "reach:bump")["return"] for method in ("plain", "ravl"))
    assert ravl >= 0.95 * plain


def test_off_policy_values_pass_their_bound_and_patch_or_large_priors_stop_them(study):
    off, truth = study("off_policy"), study("truth")
    largest = {}
    for name in ("plain", "patch", "min of 10 + prior 15"):
        lattice = truth.Lattice(study("lattice").configuration("reach:ramp", {}).env)
        run = off.Run(study("methods").OFF_POLICY[name], lattice, 0)
        for _ in range(4000):
            run.update()
        largest[name] = run.measure()["max_edge"]
    assert largest["plain"] > 10 * off.BOUND
    assert largest["patch"] < off.BOUND
    assert largest["min of 10 + prior 15"] < off.BOUND
