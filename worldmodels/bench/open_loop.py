"""How wrong a world model is, d rows after the last observation that it saw.

It observes the first rows of a window, then follows the recorded actions with the prior alone; the
state d steps on is compared with row t + d. Every error is a mean squared one, of images and planes
in [0, 1]: for planes and continue that is the Brier score.
Letters: B windows, H steps without observation, d depth 0..H, K imagined futures per window.
"""

from typing import Any

import torch
from torch import Tensor

from worldmodels.objects import Batch

QUANTITIES = ("observation", "reward", "continue")


class Errors:
    """Sums of squared errors over windows, by quantity and depth."""

    def __init__(self, horizon: int):
        self.total = {name: torch.zeros(horizon + 1, dtype=torch.float64) for name in QUANTITIES}
        self.count = {name: torch.zeros(horizon + 1, dtype=torch.float64) for name in QUANTITIES}

    def add(self, name: str, depth: int, error: Tensor, counts: Tensor) -> None:
        """error [B] at one depth, of the windows where counts [B] is true."""
        self.total[name][depth] += (error.double() * counts).sum().cpu()
        self.count[name][depth] += counts.sum().cpu()

    def mean(self) -> dict[str, list[float | None]]:
        """Mean error by quantity and depth; None where no row was compared."""
        result = {}
        for name, total in self.total.items():
            pairs = zip(total.tolist(), self.count[name].tolist(), strict=True)
            result[name] = [value / count if count else None for value, count in pairs]
        return result


class Truth:
    """What really happened in B windows of `context` + H rows; depth 0 is row `context` - 1."""

    def __init__(self, batch: Batch, context: int):
        self.batch, self.context = batch, context
        border = batch.is_first[:, context:].cumsum(1) > 0
        self.inside = torch.cat([torch.ones_like(border[:, :1]), ~border], 1)
        """bool [B, H + 1]: that depth still belongs to the episode of depth 0."""
        self.depths = range(int(self.inside.any(0).sum()))
        """Those at which there is something to compare."""

    def row(self, depth: int) -> int:
        """The row that a prediction of this depth is about."""
        return self.context - 1 + depth

    def obs(self, depth: int) -> dict[str, Tensor]:
        """The observations there, [B, ...] by key."""
        return {key: _in_unit(leaf[:, self.row(depth)]) for key, leaf in self.batch.obs.items()}

    def goes_on(self, depth: int) -> Tensor:
        """[B], 1 where the row is not terminal."""
        return 1 - self.batch.is_terminal[:, self.row(depth)].float()

    def compare(
        self, depth: int, obs: dict[str, Tensor], reward: Tensor, cont: Tensor, errors: Errors
    ) -> None:
        """Add the errors of predicting obs [B, ...] by key, reward [B] and cont [B]."""
        t, counts = self.row(depth), self.inside[:, depth]
        by_key = [
            (obs[key] - true).square().flatten(1).mean(1) for key, true in self.obs(depth).items()
        ]
        seen = counts & self.batch.obs_valid[:, t]
        errors.add("observation", depth, torch.stack(by_key).mean(0), seen)
        errors.add("reward", depth, (reward - self.batch.reward[:, t]).square(), counts)
        errors.add("continue", depth, (cont - self.goes_on(depth)).square(), counts)


@torch.no_grad()
def imagined(model: Any, truth: Truth, samples: int, errors: Errors) -> None:
    """Add the errors of `model`, a world model.

    Its prediction is the mean over K = `samples` futures: one future alone would pay for its luck.
    """
    batch, size = truth.batch, len(truth.batch.reward)
    last = torch.full((size, 2), truth.row(0), device=batch.reward.device)
    last[:, 0] = torch.arange(size)
    carry = model(batch.rows(0, truth.context), last)[1].start.expand(samples)
    for depth in truth.depths:
        if depth:
            action = batch.prev_action[:, truth.row(depth)]  # chosen one row before
            carry = model.imagine_step(carry, action.repeat_interleave(samples, 0))
        obs = {key: _mean(value, samples) for key, value in model.decode(carry).items()}
        said = model.predict(model.feature(carry))
        truth.compare(depth, obs, _mean(said.reward, samples), _mean(said.cont, samples), errors)


def copied(truth: Truth, errors: Errors) -> None:
    """Add the errors of repeating the last observed row."""
    obs, reward, goes_on = truth.obs(0), truth.batch.reward[:, truth.row(0)], truth.goes_on(0)
    for depth in truth.depths:
        truth.compare(depth, obs, reward, goes_on, errors)


def constant(truth: Truth, means: dict[str, Any], errors: Errors) -> None:
    """Add the errors of always predicting `means`: obs by key, reward, continue."""
    ones = torch.ones_like(truth.batch.reward[:, 0])
    obs = {
        key: torch.from_numpy(value).to(ones.device)[None] for key, value in means["obs"].items()
    }
    for depth in truth.depths:
        truth.compare(depth, obs, means["reward"] * ones, means["continue"] * ones, errors)


def _mean(value: Tensor, samples: int) -> Tensor:
    """[B K, ...] -> [B, ...]."""
    return value.float().unflatten(0, (-1, samples)).mean(1)


def _in_unit(obs: Tensor) -> Tensor:
    """Images and planes in [0, 1], vectors as they are."""
    return obs.float() / 255 if obs.dtype == torch.uint8 else obs.float()
