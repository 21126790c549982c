"""What a trained agent knows at the junction: is the cue remembered, and does h show it?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels import Agent
from worldmodels.envs.vector import make_vec

EPISODES = 400


@torch.no_grad()
def look(run: Path) -> dict[str, float]:
    """Over episodes that the policy plays:

    reward_known    share of choices whose reward the world model foretells from h and z (its sign)
    cue_from_h      accuracy, on unseen episodes, of a linear reading of the cue from h just before
                    the choice, which is what the policy sees of the past
    cue_share_of_h  share of the variance of h, before the choice, that lies between the two cues
    """
    agent = Agent.load(run, device="cpu")
    h, known, cue = play(agent, agent.config.env)
    cue = cue.float() * 2 - 1
    middle = h.mean(0)
    ones = torch.ones(h.shape[0], 1)
    x, half = torch.cat([h - middle, ones], 1).double(), h.shape[0] // 2
    normal = x[:half].T @ x[:half] + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x[:half].T @ cue[:half].double())
    right = (x[half:] @ weight).sign() == cue[half:]
    between = sum(
        (cue == side).float().mean() * (h[cue == side].mean(0) - middle).square().sum()
        for side in (-1, 1)
    )
    return {
        "reward_known": round(float(known.float().mean()), 3),
        "cue_from_h": round(float(right.float().mean()), 3),
        "cue_share_of_h": round(float(between / h.var(0, correction=0).sum()), 4),
    }


def play(agent: Agent, env: Any) -> tuple[Tensor, Tensor, Tensor]:
    """h before the choice [N, F_h], whether its reward was foretold [N], and the cue [N]."""
    envs, generator = make_vec(env, EPISODES, 10_000), torch.Generator().manual_seed(0)
    actions, memory = np.full(EPISODES, -1), None
    cue, h = torch.zeros(EPISODES), torch.zeros(EPISODES)
    while True:
        step = envs.step(actions)
        if step.is_first.all():
            cue = torch.from_numpy(step.obs["planes"][:, -1, -1, 0])
        before = h
        actions, memory = agent.act(step.obs, memory, step.is_first, generator=generator)
        h = memory.carry["h"]
        if step.is_last.all():
            reward = agent.world_model.predict(agent.world_model.feature(memory.carry)).reward
            envs.close()
            return before, reward.sign() == torch.from_numpy(step.reward).sign(), cue
