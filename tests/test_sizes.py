"""Parameter counts of the size ladder, derived by hand, for 64x64x3 images and 18 actions.

With U = hidden = units, d = depth = classes = U / 16 and D = deter = 8 U, the flat latent has
Z = 32 d = 2 U numbers, the feature F = D + Z = 10 U, the tokens E = 4 * 4 * 4 d = 4 U. A linear
layer a -> b has a b + b parameters, every hidden one is followed by a norm of b more.

backbone    branch of h        D U + 2 U                                 =  8 U^2 +  2 U
            first block layer  (D / 8 + U + 2 U) D + D + D (norm)        = 32 U^2 + 16 U
            gates              (D / 8) 3 D + 3 D                         = 24 U^2 + 24 U
from_z                         Z U + 2 U                                 =  2 U^2 +  2 U
from_action                    18 U + 2 U                                =           20 U
prior                          D U + 2 U, U U + 2 U, U Z + Z             = 11 U^2 +  6 U
posterior                      (D + E) U + 2 U, U Z + Z                  = 14 U^2 +  4 U
encoder     5x5: 3-2d-3d-4d-4d 25 (6 d + 6 d^2 + 12 d^2 + 16 d^2)        = 850 d^2 + 150 d
            biases and norms   2 (2 + 3 + 4 + 4) d                       =            26 d
decoder     from h, 8 blocks   (D / 8) E + E                             =  4 U^2 +  4 U
            from z             Z 2 U + 4 U, 2 U E + E                    = 12 U^2 +  8 U
            norm               4 d
            5x5: 4d-4d-3d-2d   25 (16 + 12 + 6) d^2 + 2 (4 + 3 + 2) d    = 850 d^2 +  18 d
            last: 2d-3         25 * 6 d + 3                              =           150 d + 3
reward                         F U + 2 U, 255 U + 255                    = 10 U^2 + 257 U + 255
continue                       F U + 2 U, U + 1                          = 10 U^2 +   3 U + 1
policy                         F U + 2 U, 2 (U U + 2 U), 18 U + 18       = 12 U^2 +  24 U + 18
value                          F U + 2 U, 2 (U U + 2 U), 255 U + 255     = 12 U^2 + 261 U + 255
"""

import pytest
import torch
from torch import nn

from worldmodels.backbones.configs import RSSMConfig
from worldmodels.config import ActorCriticConfig, Config, WorldModelConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.learner import build_models

SPEC = EnvSpec("atari", {"image": ObsSpec((64, 64, 3), "image")}, ActionSpec("discrete", 18))
TOTALS = {
    64: 688_004,
    256: 10_498_772,
    384: 23_496_244,
    512: 41_659_284,
    768: 93_482_068,
    1024: 165_967_124,
}
"""By hidden width: 1M, 12M, 25M, 50M, 100M, 200M; without the slow critic."""


def ladder(hidden: int) -> Config:
    d = hidden // 16
    return Config(
        backbone=RSSMConfig(deter=8 * hidden, hidden=hidden),
        world_model=WorldModelConfig(classes=d, hidden=hidden, depth=d, units=hidden),
        actor_critic=ActorCriticConfig(units=hidden),
    )


def by_hand(u: int) -> dict[str, int]:
    d = u // 16
    return {
        "dynamics.backbone": 64 * u**2 + 42 * u,
        "dynamics.from_z": 2 * u**2 + 2 * u,
        "dynamics.from_action": 20 * u,
        "dynamics.prior": 11 * u**2 + 6 * u,
        "dynamics.posterior": 14 * u**2 + 4 * u,
        "encoder": 850 * d**2 + 176 * d,
        "decoder": 16 * u**2 + 12 * u + 850 * d**2 + 172 * d + 3,
        "reward": 10 * u**2 + 257 * u + 255,
        "cont": 10 * u**2 + 3 * u + 1,
        "policy": 12 * u**2 + 24 * u + 18,
        "value": 12 * u**2 + 261 * u + 255,
    }


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("hidden", TOTALS)
def test_parameters_of_the_ladder(hidden):
    with torch.device("meta"):  # shapes without memory
        world_model, actor_critic = build_models(ladder(hidden), SPEC)
    found = {}
    for name in by_hand(hidden):
        owner = actor_critic if name in ("policy", "value") else world_model
        place = "values.critics" if name == "value" else name
        found[name] = count(owner.get_submodule(place))
    assert found == by_hand(hidden)
    assert sum(found.values()) == TOTALS[hidden]
    assert count(world_model) + count(actor_critic) == TOTALS[hidden] + found["value"]


def test_the_published_split_of_12m_in_millions():
    """DreamerV3's own split: RSSM 5.98, encoder 0.22, decoder 1.27, heads 0.72 0.66 0.79 0.85."""
    parts = by_hand(256)
    dynamics = sum(size for name, size in parts.items() if name.startswith("dynamics"))
    rest = [parts[name] for name in ("encoder", "decoder", "reward", "cont", "policy", "value")]
    millions = [round(size / 1e6, 2) for size in (dynamics, *rest)]
    assert millions == [5.98, 0.22, 1.27, 0.72, 0.66, 0.79, 0.85]


def test_the_defaults_are_the_smallest_size():
    assert (Config().backbone, Config().world_model) == (
        ladder(64).backbone,
        ladder(64).world_model,
    )
