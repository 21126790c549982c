"""Whole episodes on environments and random streams of their own; training never notices."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from worldmodels.agent import Agent
from worldmodels.collector import no_action
from worldmodels.config import EvaluationConfig
from worldmodels.envs.registry import evaluations
from worldmodels.envs.spec import EnvSpec
from worldmodels.envs.vector import make_vec
from worldmodels.runtime.seeding import generator, stream_seed


class EvaluationStopped(Exception):
    """The caller's `stop` said to give up before the last episode ended."""


def evaluate(
    agent: Agent,
    episodes: int,
    *,
    seed: int = 0,
    greedy: bool = False,
    num_envs: int = 4,
    env: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Play `episodes` whole episodes, an equal share per environment, and summarise their returns.

    `env` is another environment's config, where not the run's own is wanted. Raises
    EvaluationStopped where `stop`, asked at every step, says to give up.
    """
    num_envs = min(num_envs, episodes)
    config = agent.config.env if env is None else env
    envs = make_vec(config, num_envs, stream_seed(seed, "evaluation/envs"))
    try:
        played = _play(agent, envs, shares(episodes, num_envs), seed, greedy, stop)
    finally:
        envs.close()
    returns = [episode.total for episode in played]
    believed = float(np.mean([episode.believed for episode in played]))
    low, high = _anchors(agent, envs.spec)
    return {
        "env": config.name,
        "episodes": episodes,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "median": float(np.median(returns)),
        "min": float(np.min(returns)),
        "max": float(np.max(returns)),
        "random_score": low,
        "reference_score": high,
        "normalized": normalized(float(np.mean(returns)), low, high),
        "greedy": greedy,
        "seed": seed,
        "step": agent.step,
        "returns": returns,
        "lengths": [episode.length for episode in played],
        "discounted": float(np.mean([episode.discounted for episode in played])),
        "believed": believed if np.isfinite(believed) else None,
    }


def evaluate_all(
    agent: Agent,
    options: EvaluationConfig,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    tasks: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`evaluate` on `tasks`, by default on all that the agent's run is evaluated on: (label,
    scores) one by one.

    Every task gets the same seed, so that none depends on which others there are.
    """
    for label, env in (evaluations(agent.config.env) if tasks is None else tasks).items():
        scores = evaluate(
            agent,
            options.episodes,
            seed=seed,
            greedy=options.greedy,
            num_envs=options.envs,
            env=env,
            stop=stop,
        )
        yield label, scores


def describe(scores: dict[str, Any]) -> str:
    """One line about the scores of one task."""
    share = scores["normalized"]
    return (
        f"mean return {scores['mean']:.3f} over {scores['episodes']} episodes "
        f"(min {scores['min']:g}, max {scores['max']:g})"
        + ("" if share is None else f", normalised {share:.3f}")
    )


def shares(episodes: int, num_envs: int) -> np.ndarray:
    """Episodes per environment: equal quotas, so that short episodes are not over-counted."""
    return np.array([len(part) for part in np.array_split(np.arange(episodes), num_envs)])


class _Episode(NamedTuple):
    """One whole episode."""

    total: float
    length: int
    discounted: float
    """Return from the first observation on, discounted as the agent's values are."""
    believed: float
    """What the critic expected of it at the first observation."""


def _play(agent, envs, quota, seed, greedy, stop) -> list[_Episode]:
    random = generator(seed, "evaluation/policy", agent.device)
    actions, memory = no_action(envs.spec.action, envs.num_envs), None
    totals, discounted, believed = np.zeros((3, envs.num_envs))
    lengths, factor = np.zeros(envs.num_envs, np.int64), np.ones(envs.num_envs)
    played: list[_Episode] = []
    while quota.any():
        if stop():
            raise EvaluationStopped
        step = envs.step(actions)
        actions, memory = agent.act(
            step.obs, memory, step.is_first, greedy=greedy, generator=random
        )
        if step.is_first.any():
            believed = np.where(step.is_first, agent.value(memory), believed)
        totals = np.where(step.is_first, 0.0, totals) + step.reward
        lengths = np.where(step.is_first, 0, lengths) + step.is_real_step
        discounted = np.where(step.is_first, 0.0, discounted + factor * step.reward)
        factor = np.where(step.is_first, 1.0, factor * agent.config.discount)
        for i in np.flatnonzero(step.is_last & (quota > 0)):
            numbers = (totals[i], lengths[i], discounted[i], believed[i])
            played.append(_Episode(*(number.item() for number in numbers)))
            quota[i] -= 1
    return played


def _anchors(agent: Agent, spec: EnvSpec) -> tuple[float | None, float | None]:
    """What counts as 0 and 1: the scores of the data set that was learned from, if it tells both,
    else those of the environment.
    """
    own = agent.references
    if own.low is not None and own.high is not None:
        return own.low, own.high
    return spec.random_score, spec.reference_score


def normalized(score: float, low: float | None, high: float | None) -> float | None:
    """(score - low) / (high - low), or None where the references are unknown or equal."""
    if low is None or high is None or low == high:
        return None
    return (score - low) / (high - low)
