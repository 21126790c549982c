"""bfloat16 computes; what losses are made of stays float32 (design law 7)."""

from dataclasses import replace

import torch

from worldmodels.config import Config
from worldmodels.system import System
from worldmodels.world_model import WorldModel


def test_nothing_is_rounded_at_the_door(tiny: Config):
    system = System(replace(tiny, precision="bf16"), None)
    seen = []

    def watch(module, args, result):
        batch = args[0] if len(args) == 2 else args[2]
        losses, latents = result if len(args) == 2 else (result[0], args[1])
        seen.append({t.dtype for t in (batch.reward, batch.prev_action, *losses.values())})
        seen[-1] |= {latents.feature.dtype, *(leaf.dtype for leaf in latents.start.values())}
        if len(args) == 3:
            seen[-1] |= {leaf.dtype for leaf in vars(args[0]).values()}

    def computes(module, args, result):
        computed.add(result.dtype)

    computed: set[torch.dtype] = set()
    assert isinstance(system.learner.world_model, WorldModel)
    system.learner.world_model.register_forward_hook(watch)
    system.learner.actor_critic.register_forward_hook(watch)
    system.learner.world_model.reward.output.register_forward_hook(computes)
    while system.updates < 2:
        system.collect()
        system.learn()
    assert len(seen) == 4
    assert all(dtypes == {torch.float32} for dtypes in seen)
    assert computed == {torch.bfloat16}
