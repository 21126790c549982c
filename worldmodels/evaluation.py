"""Whole episodes on environments and random streams of their own; training never notices."""

from collections.abc import Callable, Iterator
from typing import Any

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
        played = _play(agent, envs, _shares(episodes, num_envs), seed, greedy, stop)
    finally:
        envs.close()
    returns = [total for total, _ in played]
    return {
        "env": config.name,
        "episodes": episodes,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "median": float(np.median(returns)),
        "min": float(np.min(returns)),
        "max": float(np.max(returns)),
        "random_score": envs.spec.random_score,
        "reference_score": envs.spec.reference_score,
        "normalized": normalized(float(np.mean(returns)), envs.spec),
        "greedy": greedy,
        "seed": seed,
        "step": agent.step,
        "returns": returns,
        "lengths": [length for _, length in played],
    }


def evaluate_all(
    agent: Agent,
    options: EvaluationConfig,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`evaluate` on everything that the agent's run is evaluated on: (label, scores) one by one.

    Every task gets the same seed, so that none depends on which others there are.
    """
    for label, env in evaluations(agent.config.env).items():
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


def _shares(episodes: int, num_envs: int) -> np.ndarray:
    """Episodes per environment: equal quotas, so that short episodes are not over-counted."""
    return np.array([len(part) for part in np.array_split(np.arange(episodes), num_envs)])


def _play(agent, envs, quota, seed, greedy, stop) -> list[tuple[float, int]]:
    random = generator(seed, "evaluation/policy", agent.device)
    actions, memory = no_action(envs.spec.action, envs.num_envs), None
    totals, lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
    played: list[tuple[float, int]] = []
    while quota.any():
        if stop():
            raise EvaluationStopped
        step = envs.step(actions)
        actions, memory = agent.act(
            step.obs, memory, step.is_first, greedy=greedy, generator=random
        )
        totals = np.where(step.is_first, 0.0, totals) + step.reward
        lengths = np.where(step.is_first, 0, lengths) + step.is_real_step
        for i in np.flatnonzero(step.is_last & (quota > 0)):
            played.append((float(totals[i]), int(lengths[i])))
            quota[i] -= 1
    return played


def normalized(score: float, spec: EnvSpec) -> float | None:
    """(score - random) / (reference - random), or None where the references are not known."""
    if spec.random_score is None or spec.reference_score is None:
        return None
    return (score - spec.random_score) / (spec.reference_score - spec.random_score)
