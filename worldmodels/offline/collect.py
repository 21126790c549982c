"""Records data sets: episodes of a random policy, of a run's policies, and mixtures of these.

Letters: E environments.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worldmodels import __version__
from worldmodels.agent import Agent, Memory
from worldmodels.collector import no_action
from worldmodels.envs.registry import task_names
from worldmodels.envs.rollout import random_action
from worldmodels.envs.spec import EnvSpec, Step
from worldmodels.envs.vector import VecEnv, make_vec
from worldmodels.errors import UserError, near
from worldmodels.evaluation import shares
from worldmodels.offline.dataset import References
from worldmodels.offline.from_minari import OURS
from worldmodels.offline.levels import Buffer, Medium, find_medium
from worldmodels.offline.supply import check_same_form
from worldmodels.offline.writing import write_minari
from worldmodels.replay.recorded import Recorded
from worldmodels.runtime.rundir import commit
from worldmodels.runtime.seeding import generator, stream_seed

LEVELS = ("random", "medium", "replay", "expert")
_SHARE = re.compile(r"(.+):(\d*\.?\d+)")


@dataclass
class Part:
    """Episodes of one policy, in the order in which they are written."""

    policy: str
    """A level, or the run folder as it was named."""
    episodes: int
    run: str = ""
    step: int | None = None
    """Of the checkpoint that played, or up to which rows were taken."""
    returns: list[float] = field(default_factory=list, repr=False)

    def told(self) -> dict[str, Any]:
        """Plain values for the metadata and the table."""
        values = {name: value for name, value in asdict(self).items() if name != "returns"}
        mean = float(np.mean(self.returns)) if self.returns else None
        return {**values, "mean_return": mean}


@dataclass(frozen=True)
class Recording:
    """What is to be recorded."""

    env: Any
    """Config of the environment."""
    policy: str
    """`random:0.3+expert:0.7`, for example."""
    episodes: int
    run: Path | None = None
    """Of which `medium`, `replay` and `expert` are levels."""
    seed: int = 0
    envs: int = 8
    """Environments side by side."""
    device: str = "auto"
    references: References = field(default_factory=References)
    """Scores that are called 0 and 1; what is None is the environment's own, if it knows."""

    @cached_property
    def medium(self) -> Medium:
        """The run's medium checkpoint."""
        return find_medium(self.home, self.spec.random_score)

    @cached_property
    def spec(self) -> EnvSpec:
        """The environment's."""
        envs = make_vec(self.env, 1, stream_seed(self.seed, "envs"))
        envs.close()
        return envs.spec

    @property
    def home(self) -> Path:
        """The run; UserError where none is named."""
        if self.run is None:
            raise UserError("medium, replay and expert are levels of a run; name it with --run RUN")
        return self.run


def collect(recording: Recording, out: Path) -> tuple[int, int, list[dict[str, Any]]]:
    """Write the data set `out`; returns episodes, steps, and a line for each policy."""
    if len(task_names(recording.env)) > 1:
        raise UserError(
            f"{recording.env.name} is a stream of tasks; record one of them, or train with "
            "--offline RUN on all that a run has seen"
        )
    parts = read_mix(recording.policy, recording.episodes)
    streams = [_episodes(recording, part) for part in parts]  # refuses before it plays
    ours: dict[str, Any] = {
        "environment": asdict(recording.env),
        "policy": recording.policy,
        "seed": recording.seed,
        "version": __version__,
        "commit": commit(),
    }
    about = {
        "description": f"{recording.policy} in the environment {recording.env.name}",
        "algorithm_name": recording.policy,
        **_references(recording),
        OURS: ours,
    }

    def all_episodes() -> Iterator[Recorded]:
        for part, stream in zip(parts, streams, strict=True):
            for episode in stream:
                part.returns.append(float(episode.reward.sum()))
                yield episode
        ours["parts"] = [part.told() for part in parts]

    count, steps = write_minari(out, recording.spec, all_episodes(), about)
    return count, steps, [part.told() for part in parts]


def _references(recording: Recording) -> dict[str, float]:
    """The scores that count as 0 and 1, as Minari calls them, where they are known."""
    low, high = recording.references.low, recording.references.high
    low = recording.spec.random_score if low is None else low
    high = recording.spec.reference_score if high is None else high
    known = {"ref_min_score": low, "ref_max_score": high}
    told = {name: value for name, value in known.items() if value is not None}
    if not np.isfinite([*told.values()]).all() or (len(told) == 2 and low >= high):  # type: ignore
        raise UserError(
            f"scores from {low} to {high} make no scale; give finite ones with --ref-min-score "
            "below --ref-max-score"
        )
    return told


def read_mix(text: str, episodes: int) -> list[Part]:
    """`random:0.3+expert:0.7` -> how many episodes of each; a share that is left out is 1."""
    wanted: dict[str, float] = {}
    for word in text.split("+"):
        found = _SHARE.fullmatch(word.strip())
        name, share = (found[1], float(found[2])) if found else (word.strip(), 1.0)
        if not name or share <= 0 or name in wanted:
            raise UserError(
                f"--policy {text} must name different policies with shares above 0, as "
                "random:0.3+expert:0.7"
            )
        wanted[name] = share
    ends = np.cumsum([*wanted.values()]) / sum(wanted.values()) * episodes
    counts = np.diff(np.rint(ends).astype(int), prepend=0).tolist()
    for name, count in zip(wanted, counts, strict=True):
        if not count:
            raise UserError(f"of {episodes} episodes none is left for {name}; raise --episodes")
    return [Part(name, count) for name, count in zip(wanted, counts, strict=True)]


def _episodes(recording: Recording, part: Part) -> Iterator[Recorded]:
    """The episodes of one part; everything that can be refused is, before the first is played."""
    seed = stream_seed(recording.seed, f"collect/{part.policy}")
    if part.policy == "replay":
        medium = recording.medium
        buffer = Buffer(recording.home, medium.path)
        check_same_form(buffer.spec, recording.spec, str(recording.home))
        part.run, part.step = str(recording.home), medium.step
        return buffer.draw(part.episodes, np.random.default_rng(seed))
    policy = _policy(recording, part, seed)
    return _played(recording, policy, part.episodes, seed)


class Policy(Protocol):
    """Acts in E environments."""

    def act(self, step: Step) -> np.ndarray:
        """int64 [E], or float32 [E, A] in [-1, 1]."""
        ...


class RandomPolicy:
    """Uniform actions."""

    def __init__(self, spec: EnvSpec, seed: int):
        self._spec, self._random = spec.action, np.random.default_rng(seed)

    def act(self, step: Step) -> np.ndarray:
        """Independent of everything."""
        return np.stack([random_action(self._spec, self._random) for _ in step.reward])


class AgentPolicy:
    """An agent that samples its actions, as in training."""

    def __init__(self, agent: Agent, seed: int):
        self._agent, self._memory = agent, None
        self._random = generator(seed, "policy", agent.device)
        self._memory: Memory | None

    def act(self, step: Step) -> np.ndarray:
        """With a memory that episodes reset."""
        action, self._memory = self._agent.act(
            step.obs, self._memory, step.is_first, generator=self._random
        )
        return action


def _policy(recording: Recording, part: Part, seed: int) -> Policy:
    """The policy of a part, which is told where it comes from."""
    if part.policy == "random":
        return RandomPolicy(recording.spec, seed)
    run, checkpoint = _checkpoint(recording, part.policy)
    agent = Agent.load(run, checkpoint, recording.device)
    check_same_form(agent.spec, recording.spec, str(run))
    part.run, part.step = str(run), agent.step
    return AgentPolicy(agent, seed)


def _checkpoint(recording: Recording, word: str) -> tuple[Path, str]:
    """Run and checkpoint of `medium`, `expert`, RUN or RUN@STEP."""
    if word == "medium":
        return recording.home, str(recording.medium.step)
    if word == "expert":
        return recording.home, "last"
    name, _, step = word.rpartition("@")
    run, checkpoint = (Path(name), step) if name and step.isdecimal() else (Path(word), "last")
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"--policy {word} is neither {', '.join(LEVELS)} nor a run folder{near(word, LEVELS)}"
        )
    return run, checkpoint


def _played(recording: Recording, policy: Policy, count: int, seed: int) -> Iterator[Recorded]:
    """Whole episodes, an equal share per environment, so that short ones are not over-counted."""
    envs = make_vec(recording.env, min(recording.envs, count), stream_seed(seed, "envs"))
    try:
        yield from _play(envs, policy, shares(count, envs.num_envs))
    finally:
        envs.close()


def _play(envs: VecEnv, policy: Policy, quota: np.ndarray) -> Iterator[Recorded]:
    none = no_action(envs.spec.action, envs.num_envs)
    action = none
    going: list[list[tuple[Step, np.ndarray]]] = [[] for _ in range(envs.num_envs)]
    while quota.any():
        step = envs.step(action)
        first = step.is_first.reshape(-1, *[1] * (action.ndim - 1))
        led_here = np.where(first, none, action)
        action = policy.act(step)
        for i in np.flatnonzero(quota > 0).tolist():
            going[i].append((step.lane(i), led_here[i : i + 1]))
            if step.is_last[i]:
                yield Recorded.of(going[i])
                going[i], quota[i] = [], quota[i] - 1
