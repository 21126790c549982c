"""A toy stream whose observations say which lane, episode and time they come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.objects import Batch, Carry
from worldmodels.replay import Replay

CARRY_SPEC = {
    "h": LeafSpec((3,)),
    "z": LeafSpec((2, 4)),
    "backbone.memory": LeafSpec((2,), torch.bfloat16),
}
ACTIONS = 3


@dataclass(frozen=True)
class Options:
    capacity: int = 1000
    batch_size: int = 4
    batch_length: int = 4
    carry: str = "zero"
    online: bool = False
    segment: int = 8
    retention: str = "fifo"
    long_term_share: float = 0.5
    sampling: str = "uniform"
    coin: str = "batch"
    storage: str = "ram"


def toy_spec(action: str = "discrete") -> EnvSpec:
    obs = {
        "image": ObsSpec((2, 2, 1), "image"),
        "planes": ObsSpec((2, 2, 1), "planes"),
        "where": ObsSpec((3,), "vector"),
    }
    kind = "discrete" if action == "discrete" else "continuous"
    return EnvSpec("toy", obs, ActionSpec(kind, ACTIONS))


class Stream:
    """E lanes of episodes of random lengths; `log` remembers every row by its id."""

    def __init__(self, lanes: int, seed: int = 0, longest: int = 9, action: str = "discrete"):
        self.lanes = lanes
        self.random = np.random.default_rng(seed)
        self.longest = longest
        self.discrete = action == "discrete"
        self.episode = np.full(lanes, -1)
        self.time = np.zeros(lanes, np.int64)
        self.length = np.full(lanes, -1)
        self.log: dict[int, dict[str, Any]] = {}

    def step(self) -> tuple[Step, np.ndarray]:
        over = self.time > self.length
        self.episode[over] += 1
        self.time[over] = 0
        self.length[over] = self.random.integers(0, self.longest, over.sum())
        is_first, is_last = self.time == 0, self.time == self.length
        is_terminal = is_last & (self.random.random(self.lanes) < 0.5)
        where = np.stack([np.arange(self.lanes), self.episode, self.time], -1).astype(np.float32)
        obs = {
            "image": self.random.integers(0, 256, (self.lanes, 2, 2, 1), np.uint8),
            "planes": self.random.random((self.lanes, 2, 2, 1)) < 0.5,
            "where": where,
        }
        reward = np.where(is_first, 0, self.random.normal(size=self.lanes)).astype(np.float32)
        valid = self.random.random(self.lanes) < 0.9
        life = np.zeros(self.lanes, np.bool_)
        self.time += 1
        if self.discrete:
            action = np.where(is_first, -1, self.random.integers(0, ACTIONS, self.lanes))
        else:
            action = self.random.random((self.lanes, ACTIONS)).astype(np.float32)
            action[is_first] = 0
        return Step(obs, reward, is_first, is_last, is_terminal, life, valid, ~is_first), action

    def add_to(self, replay: Replay, rows: int = 1) -> list[int]:
        """Add this many rows per lane; returns their ids in the order of arrival."""
        added = []
        for _ in range(rows):
            step, action = self.step()
            ids = replay.add(step, action).tolist()
            for lane, row in enumerate(ids):
                self.log[row] = self._row(step, action, lane)
            added += ids
        return added

    def _row(self, step: Step, action: np.ndarray, lane: int) -> dict[str, Any]:
        given = action[lane]
        if self.discrete:
            given = np.eye(ACTIONS + 1, ACTIONS)[given]
        flags = ("reward", "is_first", "is_last", "is_terminal", "obs_valid")
        row = {name: getattr(step, name)[lane] for name in flags}
        obs = {f"obs.{key}": value[lane].copy() for key, value in step.obs.items()}
        return {**row, **obs, "prev_action": given}

    def check(self, batch: Batch) -> None:
        """Every row of the batch is what arrived under its id, and ids are consecutive."""
        assert (batch.index.diff(dim=1) == 1).all()
        columns = {f"obs.{key}": value for key, value in batch.obs.items()}
        for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal", "obs_valid"):
            columns[name] = getattr(batch, name)
        for b, ids in enumerate(batch.index.tolist()):
            for t, row in enumerate(ids):
                for name, value in self.log[row].items():
                    np.testing.assert_array_equal(columns[name][b, t].numpy(), value, name)


def make_carry_of(seeds: list[int]) -> Carry:
    """A carry with one row per seed, different for different seeds."""
    rows = []
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        classes = torch.randint(4, (2,), generator=random)
        rows.append(
            {
                "h": torch.randn(3, generator=random),
                "z": torch.nn.functional.one_hot(classes, 4).float(),
                "backbone.memory": torch.randn(2, generator=random).bfloat16(),
            }
        )
    return Carry({name: torch.stack([row[name] for row in rows]) for name in CARRY_SPEC})


def same_carry(a: Carry, b: Carry) -> bool:
    return all(torch.equal(a[name], b[name]) for name in CARRY_SPEC)


def same_batch(a: Batch, b: Batch) -> bool:
    tensors = ("prev_action", "reward", "is_first", "is_last", "is_terminal", "index", "reset")
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and all(torch.equal(a.obs[key], b.obs[key]) for key in a.obs)
        and (a.carry is None) == (b.carry is None)
        and (a.carry is None or b.carry is None or same_carry(a.carry, b.carry))
    )


@dataclass(frozen=True)
class Toys:
    """What the tests of the replay share."""

    Options = Options
    Stream = Stream
    carry_spec = CARRY_SPEC
    spec = staticmethod(toy_spec)
    carry_of = staticmethod(make_carry_of)
    same_carry = staticmethod(same_carry)
    same_batch = staticmethod(same_batch)

    @staticmethod
    def replay(
        lanes: int = 2,
        folder: Path | None = None,
        seed: int = 0,
        action: str = "discrete",
        reserve: int | None = None,
        **options: Any,
    ) -> Replay:
        return Replay(
            Options(**options), toy_spec(action), CARRY_SPEC, lanes, folder, seed, reserve
        )


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()
