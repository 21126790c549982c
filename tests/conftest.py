"""Small worlds with random rows, given to tests as functions."""

from typing import Any

import pytest
import torch

from worldmodels.backbones.configs import GRUConfig, RSSMConfig
from worldmodels.config import ActorCriticConfig, Config, WorldModelConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.objects import Batch

OBS = {
    "image": ObsSpec((16, 32, 3), "image"),
    "planes": ObsSpec((5, 4, 2), "planes"),
    "vector": ObsSpec((3,), "vector"),
}
BACKBONES = {"rssm": RSSMConfig(deter=16, hidden=8, blocks=2), "gru": GRUConfig(deter=16)}


@pytest.fixture(autouse=True)
def _seeded():
    """The tensors are tiny: one thread is quickest, and every test draws the same numbers."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_spec():
    """`make_spec("image", "vector", action="continuous", size=2)`."""

    def make(*keys: str, action: Any = "discrete", size=3) -> EnvSpec:
        return EnvSpec("test", {key: OBS[key] for key in keys}, ActionSpec(action, size))

    return make


@pytest.fixture(scope="session")
def make_config():
    """`make_config("gru", "x")`, small; further fields of `ActorCriticConfig` by name."""

    def make(backbone="rssm", posterior: Any = "hx", **behaviour) -> Config:
        behaviour = {"layers": 1, "units": 8, "imagination_length": 3} | behaviour
        return Config(
            backbone=BACKBONES[backbone],
            world_model=WorldModelConfig(
                posterior=posterior,
                stoch=3,
                classes=4,
                hidden=8,
                depth=2,
                units=8,
                vector_layers=1,
                free_nats=0.0,  # three groups of four classes would all be free
            ),
            actor_critic=ActorCriticConfig(**behaviour),
            horizon=10,
        )

    return make


@pytest.fixture(scope="session")
def make_batch():
    """`make_batch(spec, 2, 6, is_last=...)`: random rows, no episode border unless given."""

    def make(spec: EnvSpec, batch=2, length=6, **fields) -> Batch:
        shape = (batch, length)
        obs = {}
        for key, one in spec.obs.items():
            noise = torch.randn(*shape, *one.shape)
            obs[key] = {
                "image": (noise * 60 + 128).clamp(0, 255).to(torch.uint8),
                "planes": noise > 0,
                "vector": noise,
            }[one.kind]
        if spec.action.kind == "discrete":
            action = torch.eye(spec.action.size)[torch.randint(spec.action.size, shape)]
        else:
            action = torch.rand(*shape, spec.action.size) * 2 - 1
        no = torch.zeros(shape, dtype=torch.bool)
        start = no.clone()
        start[:, 0] = True
        given = {
            "obs": obs,
            "prev_action": action,
            "reward": torch.randn(shape),
            "is_first": no,
            "is_last": no,
            "is_terminal": no,
            "obs_valid": ~no,
            "index": torch.arange(batch * length).view(shape),
            "reset": start,
        }
        return Batch(**given | fields)

    return make
