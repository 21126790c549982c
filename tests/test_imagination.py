"""Rollouts: which action leads to which state, and where the heads are read."""

import pytest
import torch

from worldmodels.backbones.base import State
from worldmodels.imagination import imagine
from worldmodels.learner import build_models
from worldmodels.objects import Latents
from worldmodels.sockets import Prediction


class Counter:
    """Known dynamics: h is (steps taken, sum of actions); the reward is 10 x the last action.

    The policy reads h alone.
    """

    feature_size = 2

    def imagine_step(self, carry, action):
        h, z = carry["h"], carry["z"]
        chosen = (action * torch.arange(action.shape[1])).sum(1)
        h = torch.stack([h[:, 0] + 1, h[:, 1] + chosen], 1)
        return State({"h": h, "z": chosen.view_as(z)})

    def reading(self, carry):
        return torch.cat([carry["h"], carry["z"].flatten(1)], -1)

    def predict(self, reading):
        return Prediction(reward=10 * reading[..., 2], cont=1 / (1 + reading[..., 0]))


class Script:
    """The action at a state is its number of steps, modulo 4, plus the row."""

    action_size = 4

    def act(self, feature):
        row = torch.arange(feature.shape[0])
        return torch.eye(4)[(feature[:, 0].long() + row) % 4]


def starting_at(h: torch.Tensor, weight: torch.Tensor) -> Latents:
    carry = State({"h": h, "z": torch.zeros(h.shape[0], 1, 1)})
    none = torch.zeros(0)
    return Latents(none, none, none, carry, torch.zeros(h.shape[0], 2).long(), weight, carry)


def test_action_i_leads_to_state_i_plus_1():
    """Reward i + 1 is that of action i: an agent is paid on arriving, never one step late."""
    weight = torch.tensor([1.0, 0.0, 1.0])
    rollout = imagine(Counter(), Script(), starting_at(torch.zeros(3, 2), weight), 5)
    assert rollout.feature.shape == (3, 6, 2)
    assert rollout.action.shape == (3, 5, 4)
    assert rollout.feature[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    for row in range(3):
        chosen = [(step + row) % 4 for step in range(5)]
        assert rollout.action[row].argmax(-1).tolist() == chosen
        assert rollout.reward[row].tolist() == [0.0, *(10.0 * a for a in chosen)]
        assert rollout.feature[row, :, 1].tolist() == [sum(chosen[:i]) for i in range(6)]
    assert rollout.cont[0].tolist() == pytest.approx([1 / (1 + i) for i in range(6)])
    assert torch.equal(rollout.start_weight, weight)


@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("backbone", ["rssm", "gru", "hybrid"])
def test_rollout_of_the_real_parts(backbone, action, make_config, make_spec, make_batch):
    spec = make_spec("vector", action=action)
    world_model, actor_critic = build_models(make_config(backbone), spec)
    _, latents = world_model(make_batch(spec, 2, 4), "all")
    rollout = imagine(world_model, actor_critic, latents, 3)
    size = world_model.feature_size
    assert rollout.feature.shape == (8, 4, size)
    assert rollout.action.shape == (8, 3, 3)
    assert rollout.reward.shape == rollout.cont.shape == (8, 4)
    assert torch.equal(rollout.feature[:, 0], world_model.feature(latents.start))
    for x in (rollout.feature, rollout.action, rollout.reward, rollout.cont):
        assert not x.requires_grad
        assert x.dtype == torch.float32
    if action == "discrete":
        assert (rollout.action.sum(-1) == 1).all()
    again = world_model.predict(rollout.feature)
    assert torch.equal(rollout.cont, again.cont)
    # The states are those of imagine_step, fed with the recorded actions and latents.
    carry = latents.start
    for i in range(3):
        carry = world_model.imagine_step(carry, rollout.action[:, i])
        z = rollout.feature[:, i + 1, -12:].unflatten(1, (3, 4))
        carry = State({**carry, "z": z})
        torch.testing.assert_close(world_model.feature(carry), rollout.feature[:, i + 1])
