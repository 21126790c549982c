"""From pictures: what the data set holds, and where a picture says the agent is."""

import torch

from worldmodels.envs.reach import ReachDynamics
from worldmodels.envs.registry import make


def test_a_data_set_is_the_lattice(study, monkeypatch):
    """Places read from the pictures move by the actions; rewards are for the place left behind."""
    pixels = study("pixels")
    monkeypatch.setattr(pixels, "EPISODES", 5)
    config = pixels.task("ramp", half_width=5)
    data = pixels.DataSet.record(config, 0)
    place = pixels.places(data.planes)
    moves = torch.cartesian_prod(*[torch.arange(-1, 2)] * 2)[data.action.argmax(-1)]
    wall = 2 * config.edge
    assert torch.equal(place[:, 1:], (place[:, :-1] + moves[:, 1:]).clamp(-wall, wall))
    assert (data.action[:, 0] == 0).all()
    assert (data.action[:, 1:].sum(-1) == 1).all()
    pay = ReachDynamics(config).pay(place[:, :-1].unbind(-1)).float()
    assert torch.allclose(data.reward[:, 1:], pay)
    assert (place[:, 0].abs() <= 5).all()
    assert (place.abs().amax(-1) >= config.edge).any()


def test_windows_know_where_episodes_open(study, monkeypatch):
    pixels = study("pixels")
    monkeypatch.setattr(pixels, "EPISODES", 5)
    monkeypatch.setattr(pixels, "WINDOWS", 200)
    data = pixels.DataSet.record(pixels.task("ramp", half_width=5), 0)
    batch = data.batch()
    assert batch.reset[:, 0].all()
    assert torch.equal(batch.is_first, batch.prev_action.sum(-1) == 0)
    assert batch.is_first[:, 0].any()


def test_the_policy_starts_in_the_centre(study):
    pixels = study("pixels")
    centre = torch.from_numpy(make(pixels.task("ramp"), 0).reset().obs["planes"])
    assert pixels.places(centre).tolist() == [[0, 0]]
