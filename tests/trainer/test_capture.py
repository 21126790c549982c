"""The update reads no tensor's value back and its shapes do not depend on data (for graphs)."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worldmodels.config import Config, OptimizerConfig
from worldmodels.distributions import default_bins
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.learner import Learner
from worldmodels.objects import Batch
from worldmodels.presets import load_config
from worldmodels.registry import backbone_names

SPECS = {
    "image": (ObsSpec((32, 32, 3), "image"), torch.uint8, ActionSpec("discrete", 4)),
    "planes": (ObsSpec((6, 5, 2), "planes"), torch.bool, ActionSpec("discrete", 3)),
    "vector": (ObsSpec((7,), "vector"), torch.float32, ActionSpec("continuous", 2)),
}


@pytest.fixture(autouse=True)
def fresh_bins():
    """The bins are made once per process: not as tensors without values, and not out of them."""
    default_bins.cache_clear()
    yield
    default_bins.cache_clear()


class Bare:
    """What the learner asks of Fabric, which cannot move tensors without values."""

    autocast = nullcontext

    def setup_module(self, module):
        return module

    def setup_optimizers(self, optimizer):
        return optimizer

    def backward(self, loss):
        loss.backward()


def fake_batch(config: Config, obs: ObsSpec, dtype: torch.dtype, actions: int) -> Batch:
    shape = (config.replay.batch_size, config.replay.batch_length)
    flag = torch.zeros(shape, dtype=torch.bool)
    return Batch(
        obs={obs.kind: torch.zeros(*shape, *obs.shape).to(dtype)},
        prev_action=torch.zeros(*shape, actions),
        reward=torch.zeros(shape),
        index=torch.zeros(shape, dtype=torch.int64),
        is_first=flag,
        is_last=flag,
        is_terminal=flag,
        obs_valid=flag,
        reset=flag,
    )


@pytest.mark.parametrize("starts", [0, 16])
@pytest.mark.parametrize("kind", SPECS)
def test_an_update_runs_on_tensors_without_values(tiny: Config, kind: str, starts: int):
    check_without_values(
        replace(tiny, actor_critic=replace(tiny.actor_critic, starts=starts)), kind
    )


@pytest.mark.parametrize("posterior", ["hx", "x"])
@pytest.mark.parametrize("backbone", backbone_names())
def test_so_it_does_with_every_backbone(tiny: Config, backbone: str, posterior, small_backbones):
    config = replace(
        tiny,
        backbone=small_backbones[backbone],
        world_model=replace(tiny.world_model, posterior=posterior),
        actor_critic=replace(tiny.actor_critic, starts=16),
    )
    check_without_values(config, "vector")


@pytest.mark.parametrize("preset", ["sac", "ravl-mbpo"])
def test_so_do_sac_and_ensembles(preset: str):
    """With LaProp: Adam reads the count of its steps, which it keeps on the CPU."""
    model = {} if preset == "sac" else {"weight_decay": 0, "units": 8}
    config = load_config("gym:Pendulum-v1", [preset], actor_critic={"units": 8}, world_model=model)
    check_without_values(replace(config, optimizer=OptimizerConfig()), "vector")


def check_without_values(config: Config, kind: str) -> None:
    """Two updates on the meta device, where reading a value raises."""
    obs, dtype, action = SPECS[kind]
    with torch.device("meta"):
        spec = EnvSpec("fake", {kind: obs}, action)
        learner = Learner(config, spec, Bare())
        batch = fake_batch(config, obs, dtype, action.size)
        for _ in range(2):
            update = learner.gradients(batch)
            learner.apply()
            assert update.loss.shape == ()


@pytest.mark.parametrize("read", [Tensor.item, Tensor.nonzero, bool, Tensor.tolist])
def test_reading_a_value_would_fail(read):
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros((), device="meta"))
