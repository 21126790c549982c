"""Open-loop imagination against the truth, as a strip of frames and one number.

The agent plays an episode; from a row on, the world model follows the recorded actions with the
prior alone. Copying the last observed frame is the baseline to beat.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.collector import no_action
from worldmodels.envs.vector import make_vec
from worldmodels.errors import UserError
from worldmodels.objects import Carry
from worldmodels.runtime.seeding import generator, stream_seed

ROWS = 300
"""Rows of an episode that are played at most."""


def dream(
    agent: Agent,
    out: Path,
    *,
    context: int = 5,
    horizon: int = 15,
    episodes: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a PNG (truth above, dream below) and return its path and the pixel errors.

    `error` is the mean squared error over the dreamt frames of `episodes` episodes, pixels in
    [0, 1]; `copy_error` is that of repeating the last observed frame. The dream starts at a random
    row of each episode and ends with the episode or after `horizon` rows.
    """
    key = picture_key(agent)
    random = generator(seed, "dream", agent.device)
    strips: list[Strip] = []
    for episode in range(episodes):
        played = _play(agent, stream_seed(seed, f"dream/env/{episode}"), random, key)
        if len(played.frames) <= context:
            raise UserError(
                f"an episode of {agent.spec.name} lasted {len(played.frames)} rows, too few "
                f"for a dream after {context}; lower --context"
            )
        strips.append(_dream_of(agent, played, context, horizon, random, key))
    errors = np.concatenate([strip.errors() for strip in strips])  # [frames, 2]
    _draw(max(strips, key=lambda strip: len(strip.dreamt)), out)
    return {
        "path": str(out),
        "context": context,
        "horizon": horizon,
        "episodes": len(strips),
        "frames": len(errors),
        "error": float(errors[:, 0].mean()),
        "copy_error": float(errors[:, 1].mean()),
    }


def picture_key(agent: Agent) -> str:
    """The observation that can be looked at; UserError where there is none."""
    for key, spec in agent.spec.obs.items():
        if spec.kind in ("image", "planes"):
            return key
    raise UserError(
        f"{agent.spec.name} has no image to dream of (only {', '.join(agent.spec.obs)}); "
        "dream needs an environment with an image or planes"
    )


@dataclass(frozen=True)
class Played:
    """An episode of R rows, up to `ROWS`: pixels in [0, 1], actions and model states."""

    frames: np.ndarray
    """[R, H, W, C]."""
    actions: list[Tensor]
    """Chosen at each row, [1, A]."""
    carries: list[Carry]
    """After each row."""


@dataclass(frozen=True)
class Strip:
    """A window of an episode: what was seen, what came, and what was dreamt of it."""

    seen: np.ndarray
    """[context, H, W, C]."""
    truth: np.ndarray
    """[L, H, W, C], the frames after the context."""
    dreamt: np.ndarray
    """[L, H, W, C]."""

    def errors(self) -> np.ndarray:
        """Mean squared error of every dreamt frame, and of copying the last seen one: [L, 2]."""
        axes = (1, 2, 3)
        dream = np.square(self.dreamt - self.truth).mean(axes)
        return np.stack([dream, np.square(self.seen[-1] - self.truth).mean(axes)], 1)


def _play(agent: Agent, seed: int, random: torch.Generator, key: str) -> Played:
    """An episode by the agent's own policy."""
    envs = make_vec(agent.config.env, 1, seed)
    action, memory = no_action(agent.spec.action, 1), None
    frames, actions, carries = [], [], []
    ended = False
    while not ended and len(frames) < ROWS:
        step = envs.step(action)
        action, memory = agent.act(step.obs, memory, step.is_first, generator=random)
        frames.append(_pixels(step.obs[key][0]))
        actions.append(memory.action)
        carries.append(memory.carry)
        ended = bool(step.is_last[0])
    envs.close()
    return Played(np.stack(frames), actions, carries)


@torch.no_grad()
def _dream_of(agent, played: Played, context: int, horizon: int, random, key: str) -> Strip:
    """Follow the recorded actions with the prior from a random row on."""
    rows = len(played.frames)
    last = int(torch.randint(context - 1, rows - 1, (), generator=random, device=agent.device))
    carry, dreamt = played.carries[last], []
    stop = min(last + horizon, rows - 1)
    for t in range(last, stop):
        carry = agent.world_model.imagine_step(carry, played.actions[t], generator=random)
        dreamt.append(agent.world_model.decode(carry)[key][0].float().cpu().numpy())
    return Strip(
        seen=played.frames[last - context + 1 : last + 1],
        truth=played.frames[last + 1 : stop + 1],
        dreamt=np.stack(dreamt),
    )


def _pixels(frame: np.ndarray) -> np.ndarray:
    """uint8 or bool [H, W, C] -> float32 in [0, 1]."""
    return frame.astype(np.float32) / (255 if frame.dtype == np.uint8 else 1)


def _draw(strip: Strip, out: Path) -> None:
    """Truth in the upper row, seen frames and then the dream in the lower, a gap between them."""
    from matplotlib.figure import Figure

    above = np.concatenate([strip.seen, strip.truth])
    below = np.concatenate([strip.seen, strip.dreamt])
    height, width = above.shape[1:3]
    figure = Figure(figsize=(len(above), 2 * height / width + 0.5), layout="compressed")
    axes = figure.subplots(2, len(above), squeeze=False)
    for row, frames in enumerate((above, below)):
        for column, frame in enumerate(frames):
            axis = axes[row, column]
            axis.imshow(_colours(frame), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            dreaming = column >= len(strip.seen)
            for spine in axis.spines.values():
                spine.set_color("tab:red" if dreaming and row else "tab:green")
                spine.set_linewidth(2)
            if not row:
                axis.set_title(f"{column - len(strip.seen) + 1:+d}" if dreaming else "seen", size=8)
    axes[0, 0].set_ylabel("truth", size=8)
    axes[1, 0].set_ylabel("dream", size=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120, bbox_inches="tight")


def _colours(frame: np.ndarray) -> np.ndarray:
    """[H, W, C] -> something to show: RGB as it is, one channel as gray, planes in colours."""
    channels = frame.shape[-1]
    if channels in (1, 3):
        return frame if channels == 3 else frame[..., 0]
    from matplotlib import colormaps

    palette = colormaps["tab10"](np.arange(channels) % 10)[:, :3]
    return np.clip(frame @ palette, 0, 1)
