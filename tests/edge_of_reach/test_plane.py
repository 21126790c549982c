"""The plane: starts, the patch in the dynamics, and the returns of a policy."""

import math
from types import SimpleNamespace

import pytest
import torch

from worldmodels.envs.reach import ReachDynamics


@pytest.fixture
def plane(study):
    return study("plane")


def test_starts_open_episodes_all_over_the_square(plane):
    batch = plane.starts(500)
    vector = batch.obs["vector"]
    assert (vector.min(), vector.max()) == (
        pytest.approx(-0.2, abs=0.01),
        pytest.approx(0.2, abs=0.01),
    )
    assert batch.is_first.all()


def test_the_patch_ends_what_comes_beyond(plane):
    plain, patched = ReachDynamics(plane.TASK), plane.PatchedDynamics(plane.TASK, 11.0)
    state = (torch.tensor([10.5, 10.5, -3.0]), torch.tensor([0.0, 0.0, 1.0]))
    action = (torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, -1.0]))
    arrived, reward, cont = patched.step(state, action)
    same, usual, _ = plain.step(state, action)
    assert [torch.equal(a, b) for a, b in zip(arrived, same, strict=True)] == [True, True]
    assert torch.allclose(reward, usual + torch.tensor([-60.0, 0, 0]))
    assert cont.tolist() == [0, 1, 1]


def test_returns_of_walking_straight_out(plane):
    """0.5 m / 11 for m = 0 to 11, then -1."""
    run = plane.Run(plane.Method(critics=2), 0)
    straight = torch.tensor([[1.0, 0.0]])
    actor = SimpleNamespace(act=lambda feature, greedy: straight.expand(len(feature), 2))
    run.learner = SimpleNamespace(actor_critic=actor, config=run.learner.config)
    total, worth = run.play(torch.zeros(3, 2))
    pay = [0.5 * m / 11 if m <= 11 else -1.0 for m in range(300)]
    assert total.tolist() == pytest.approx([sum(pay[:30])] * 3, abs=1e-3)
    discounted = math.fsum(0.99**step * reward for step, reward in enumerate(pay))
    assert worth.tolist() == pytest.approx([discounted] * 3, abs=1e-2)


def test_what_lies_in_the_frame_is_never_an_input(plane):
    """Rollouts from anywhere in the square, straight out: the last state alone is beyond 11."""
    run = plane.Run(plane.Method(critics=2), 0)
    model = run.learner.world_model
    carry = model.observe(plane.starts(200), "all").start
    farthest = []
    for _ in range(plane.LENGTH):
        farthest.append(float(carry["vector"].abs().max()) * 10)
        out = carry["vector"].sign()
        carry = model.imagine_step(carry, out)
    assert max(farthest) <= plane.INSIDE
    assert float(carry["vector"].abs().max()) * 10 > plane.INSIDE
