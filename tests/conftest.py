"""Small worlds with random rows, given to tests as functions."""

from typing import Any

import pytest
import torch

from worldmodels.backbones.configs import (
    AttentionOptions,
    DeltaNetConfig,
    GRUConfig,
    HybridConfig,
    Mamba2Config,
    Mamba3Config,
    MambaConfig,
    RSSMConfig,
    TransformerConfig,
)
from worldmodels.config import ActorCriticConfig, Config, ReplayConfig, WorldModelConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.objects import Batch

OBS = {
    "image": ObsSpec((16, 32, 3), "image"),
    "planes": ObsSpec((5, 4, 2), "planes"),
    "vector": ObsSpec((3,), "vector"),
}
BACKBONES: dict[str, Any] = {
    config.name: config
    for config in (
        RSSMConfig(deter=16, hidden=8, blocks=2),
        GRUConfig(deter=16),
        TransformerConfig(width=16, heads=2, window=4),
        MambaConfig(width=16, state=3),
        Mamba2Config(width=16, heads=4, state=3, groups=2, chunk=3),
        Mamba3Config(width=16, heads=4, state=4, groups=2, chunk=3),
        DeltaNetConfig(width=16, heads=2, key=4, chunk=3),
        HybridConfig(
            width=16,
            mlp=1.5,
            stack=("mamba2", "attention", "gru"),
            attention=AttentionOptions(heads=2, window=2),
        ),
    )
}
"""Every built-in backbone, small."""


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
def small_backbones() -> dict[str, Any]:
    """Name -> small options of every built-in backbone."""
    return BACKBONES


@pytest.fixture(scope="session")
def make_config():
    """`make_config("gru", "x")`, small; further fields of `ActorCriticConfig` by name."""

    def make(backbone="rssm", posterior: Any = "hx", **behaviour) -> Config:
        small: dict[str, Any] = {"layers": 1, "units": 8, "imagination_length": 3}
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
            actor_critic=ActorCriticConfig(**small | behaviour),
            replay=ReplayConfig(batch_size=4, batch_length=6),
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
