"""Novelty is 0 where the critic has learned and 1 far from it, and survives a checkpoint."""

from typing import Any

import pytest
import torch

from worldmodels.values.configs import ValuesConfig
from worldmodels.values.novelty import (
    Exact,
    NearestNeighbour,
    RandomDistillation,
    make_novelty,
)
from worldmodels.values.prior import Priors

F = 5


def novelty_of(name: Any, **options) -> Any:
    return make_novelty(ValuesConfig(kind="ravl", novelty=name, **options), F, units=16)


def test_exact_knows_every_input_and_nothing_else():
    """Against a Python set, over lattice points; 2^22 cells make a mistake here unlikely."""
    exact = Exact(F)
    points = torch.randint(-20, 21, (400, F)) / 10.0
    exact.observe(points[:200].view(20, 10, F))
    known = {tuple(p) for p in points[:200].tolist()}
    expected = [float(tuple(p) not in known) for p in points.tolist()]
    assert exact(points).tolist() == expected
    assert set(expected) == {0.0, 1.0}
    assert exact(points[:200] + 1e-4).sum() == 0  # the same cell of the grid


def test_nearest_neighbour_by_brute_force():
    knn = NearestNeighbour(F, 32)
    for _ in range(40):
        knn.observe(torch.randn(6, 4, F))
    asked = torch.randn(50, F) * 2
    distance = torch.stack([(knn.memory - a).norm(dim=1).min() for a in asked])
    torch.testing.assert_close(knn.raw(asked), distance, rtol=1e-4, atol=1e-4)
    expected = (distance / knn.level - 1).clamp(0, 1)
    torch.testing.assert_close(knn(asked), expected, rtol=1e-3, atol=1e-3)


def test_nearest_neighbour_asks_only_what_was_written():
    knn = NearestNeighbour(F, 64)
    inputs = torch.full((3, 2, F), 7.0)
    for update in range(1, 6):
        knn.observe(inputs)
        assert int((knn.memory != 0).any(1).sum()) == min(8 * update, 64)
        assert float(knn.raw(torch.zeros(1, F))) == pytest.approx(7.0 * F**0.5)  # not the zeros


def test_states_that_were_inputs_are_known_where_few_repeat():
    """The lattice's 361 cells: their level is 0, where any error of a distance would be novel."""
    axis = torch.arange(-9, 10) / 10
    cells = torch.cat([torch.cartesian_prod(axis, axis), torch.ones(361, 1)], 1)
    knn = NearestNeighbour(3, 4096)
    for _ in range(1500):
        knn.observe(cells[torch.randint(361, (32, 10))])
    assert float(knn.level) < 1e-6
    assert float(knn(cells).max()) == 0.0
    assert float(knn(cells + torch.tensor([2.0, 0.0, 0.0])).min()) == 1.0


def test_half_of_the_memory_is_the_newest_and_half_a_sample_of_everything():
    """Inputs that bear the number of their update: 200 updates, 4 of 32 places in each."""
    samples = []
    for _ in range(60):
        knn = NearestNeighbour(1, 64)
        for update in range(200):
            knn.observe(torch.full((8, 3, 1), float(update)))
        newest, sample = knn.memory.squeeze(1).split(32)
        assert sorted(newest.tolist()) == [update for update in range(192, 200) for _ in range(4)]
        samples.append(sample)
    ages = torch.cat(samples)
    counts = torch.histc(ages, 10, 0, 200)  # 1920 draws, 192 expected in each tenth
    assert float((counts - 192).abs().max()) < 5 * 192**0.5
    assert float(ages.mean()) == pytest.approx(99.5, abs=5 * 57.7 / 1920**0.5)


def test_the_level_is_how_far_memories_lie_apart():
    """With 256 asked of the sample's 32, the 95th percentile is one of the largest of all."""
    knn = NearestNeighbour(F, 64)
    for _ in range(12):
        knn.observe(torch.randn(6, 4, F))
    distance = torch.cdist(knn.memory, knn.memory).fill_diagonal_(torch.inf)
    nearest = distance[32:].amin(1)
    apart = knn._apart()
    assert len(apart) == 256
    assert all(float((nearest - one).abs().min()) < 1e-4 for one in apart)
    assert len(apart.unique()) > 20
    for _ in range(2000):
        knn.follow(knn._apart())
    assert nearest.quantile(0.85) < knn.level < nearest.max() + 1e-4


def test_a_narrow_policy_does_not_make_what_was_known_novel():
    knn = NearestNeighbour(2, 256)
    for _ in range(100):
        knn.observe(torch.rand(16, 4, 2))
    known = torch.rand(200, 2)
    for _ in range(200):
        knn.observe(0.5 + 1e-3 * torch.rand(16, 4, 2))
    assert float(knn(known).mean()) < 0.2
    assert float(knn(known + 2).min()) == 1.0


def test_level_is_the_running_percentile_of_what_is_known():
    class Norm(NearestNeighbour):
        def raw(self, feature):
            return feature[:, 0]

    knn = Norm(F, 16)
    known = torch.arange(101.0)
    knn.follow(known)
    assert float(knn.level) == 95.0
    knn.follow(2 * known)
    assert float(knn.level) == pytest.approx(0.99 * 95 + 0.01 * 190)
    level = float(knn.level)
    asked = torch.zeros(4, F)
    asked[:, 0] = torch.tensor([0.5, 1.0, 1.25, 5.0]) * level
    torch.testing.assert_close(knn(asked), torch.tensor([0.0, 0.0, 0.25, 1.0]))


def test_distillation_learns_its_inputs_only():
    rnd = novelty_of("rnd")
    optimizer = torch.optim.Adam([p for p in rnd.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(300):
        inputs = torch.rand(16, 4, F)
        optimizer.zero_grad()
        rnd.loss(inputs).mean().backward()
        optimizer.step()
        rnd.observe(inputs)
    assert float(rnd(torch.rand(200, F)).mean()) < 0.05
    assert float(rnd(torch.rand(200, F) - 3).mean()) > 0.95
    assert all(p.grad is None for p in rnd.target.parameters())


def test_distillation_knows_the_scale_of_its_inputs_and_its_level_one_step_before_the_end():
    one, two = novelty_of("rnd"), novelty_of("rnd")
    inputs = torch.randn(40, 3, F)
    one.observe(inputs)
    two.load_state_dict({**one.state_dict(), "level": torch.zeros(())})
    two.observe(100 * inputs + 7)
    torch.testing.assert_close(two.raw(100 * inputs + 7), one.raw(inputs), rtol=1e-2, atol=1e-4)
    errors = one.raw(inputs[:, -1]).sort().values
    assert torch.equal(one.level, errors[int(0.95 * 39)])


def test_random_functions_see_how_far_a_state_is_and_not_only_where():
    """A norm behind a layer without biases would leave the direction alone (2 numbers a state)."""
    near = torch.randn(200, 2)
    for function in (
        RandomDistillation(2, 64).target,
        Priors(3, 2, units=64, layers=2, share=1.0).networks,
    ):
        values, farther = function(near), function(2 * near)
        assert float((farther - values).std() / values.std()) > 0.2


@pytest.mark.parametrize("name", ["exact", "rnd", "knn"])
def test_survives_a_checkpoint(name):
    one, two = novelty_of(name), novelty_of(name)
    for _ in range(3):
        one.observe(torch.randn(8, 4, F))
    two.load_state_dict(one.state_dict())
    asked = torch.randn(50, F) * 3
    assert torch.equal(one(asked), two(asked))
    assert 0 <= float(one(asked).min()) <= float(one(asked).max()) <= 1
    assert one(asked).any()
