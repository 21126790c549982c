"""Which steps are transitions, what they hold, and how the ring keeps them."""

from collections import deque

import pytest
import torch

from worldmodels.control.ring import Ring
from worldmodels.control.transitions import Transitions, imagined, replayed
from worldmodels.objects import Rollout

VALID = [(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 2)]
"""(b, t) of the steps t -> t + 1 of `crossing` that an agent made and saw."""


def test_replayed_steps(make_spec, make_batch, crossing):
    batch = crossing(make_batch(make_spec("vector", action="continuous", size=2), 4, 4))
    feature = torch.randn(4, 4, 5, requires_grad=True)
    found = replayed(feature, batch, 0.9)
    assert not found.state.requires_grad
    for b in range(4):
        for t in range(3):
            k = b * 3 + t
            assert bool(found.weight[k]) == ((b, t) in VALID), (b, t)
            assert torch.equal(found.state[k], feature[b, t])
            assert torch.equal(found.next_state[k], feature[b, t + 1])
            assert torch.equal(found.action[k], batch.prev_action[b, t + 1])
            assert found.reward[k] == batch.reward[b, t + 1]
            ends = (b, t) in ((1, 1), (2, 0))  # terminal; neither the time limit nor the cut
            assert float(found.cont[k]) == pytest.approx(0 if ends else 0.9)


def test_no_step_leads_to_or_from_a_row_that_was_not_seen(make_spec, make_batch):
    valid = torch.tensor([[True, False, True, True]])
    batch = make_batch(make_spec("vector", action="continuous"), 1, 4, obs_valid=valid)
    assert replayed(torch.randn(1, 4, 5), batch, 0.9).weight.tolist() == [0, 0, 1]


def test_valid_ones_come_first_in_their_order(make_spec, make_batch, crossing):
    batch = crossing(make_batch(make_spec("vector", action="continuous"), 4, 4))
    every = replayed(torch.arange(16.0).view(4, 4, 1), batch, 0.9)
    states = [float(4 * b + t) for b, t in VALID]
    for count in (0, 3, 7, 12):
        some = every.first_valid(count)
        assert some.state[:7, 0].tolist() == states[:count]
        assert some.weight.tolist() == [1.0] * min(count, 7) + [0.0] * (count - 7)


def test_imagined_steps_end_with_the_episode():
    """Starts: alive, dead, and one whose state 2 is terminal."""
    m, length = 3, 4
    cont = torch.full((m, length + 1), 0.9)
    cont[2, 2] = 0.0
    rollout = Rollout(
        torch.randn(m, length + 1, 5),
        torch.randn(m, length, 2),
        torch.randn(m, length + 1),
        cont,
        torch.tensor([1.0, 0.0, 1.0]),
    )
    found = imagined(rollout)
    assert found.weight.view(m, length).tolist() == [[1] * 4, [0] * 4, [1, 1, 0, 0]]
    for i in range(m):
        for t in range(length):
            k = i * length + t
            assert torch.equal(found.state[k], rollout.feature[i, t])
            assert torch.equal(found.action[k], rollout.action[i, t])
            assert torch.equal(found.next_state[k], rollout.feature[i, t + 1])
            assert found.reward[k] == rollout.reward[i, t + 1]
            assert found.cont[k] == cont[i, t + 1]


def some(numbers: list[int], kept: list[int]) -> Transitions:
    """Transitions that are all named by one number each."""
    x = torch.tensor(numbers, dtype=torch.float32)
    state, action = x[:, None].expand(-1, 3), (x + 0.5)[:, None].expand(-1, 2)
    return Transitions(state, action, x + 0.1, x + 0.2, state + 0.3, torch.tensor(kept).float())


def test_pack_and_unpack():
    given = some([1, 2, 3], [1, 0, 1])
    found = Transitions.unpack(given.pack(), given.weight, 3)
    for name, column in vars(given).items():
        assert torch.equal(getattr(found, name), column), name


def test_the_ring_holds_the_newest_as_a_deque_does():
    torch.manual_seed(0)
    ring, truth = Ring(7, 3, 2), deque(maxlen=7)
    number = 0
    for size in (3, 0, 2, 7, 4, 1, 6, 5):
        numbers = list(range(number, number + size))
        kept = (torch.rand(size) < 0.7).long().tolist()
        number += size
        if size:
            ring.add(some(numbers, kept))
        truth.extend(n for n, keep in zip(numbers, kept, strict=True) if keep)
        assert int(ring.size) == len(truth)
        held = ring.rows[: len(truth), 0].tolist()
        assert sorted(held) == sorted(truth)
        if truth:
            drawn = ring.sample(200)
            assert drawn.weight.all()
            assert set(drawn.state[:, 0].tolist()) == set(truth)
            torch.testing.assert_close(drawn.next_state, drawn.state + 0.3)


def test_an_empty_ring_gives_what_does_not_count():
    ring = Ring(4, 3, 2)
    assert not ring.sample(5).weight.any()
    ring.add(some([1, 2], [0, 0]))
    assert not ring.sample(5).weight.any()


def test_draws_are_uniform():
    torch.manual_seed(0)
    ring = Ring(5, 3, 2)
    ring.add(some([0, 1, 2, 3, 4], [1] * 5))
    counts = ring.sample(50_000).state[:, 0].long().bincount()
    assert counts.tolist() == pytest.approx([10_000] * 5, rel=0.04)


def test_a_ring_comes_back_from_its_state():
    ring, other = Ring(4, 3, 2), Ring(4, 3, 2)
    ring.add(some([1, 2, 3], [1, 1, 1]))
    other.load_state_dict(ring.state_dict())
    for one in (ring, other):
        one.add(some([4, 5], [1, 1]))
    assert torch.equal(ring.rows, other.rows)
    torch.manual_seed(1)
    drawn = ring.sample(9).pack()
    torch.manual_seed(1)
    assert torch.equal(other.sample(9).pack(), drawn)
