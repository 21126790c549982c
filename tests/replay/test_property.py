"""T11: any interleaving of everything a replay does agrees with a naive list of rows."""

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

LANES, CAPACITY, SEGMENT, LENGTH = 2, 40, 4, 3
LARGEST = CAPACITY // SEGMENT + LANES


class Oracle:
    """Rows in a list, in the order of arrival; nothing clever."""

    def __init__(self):
        self.rows: list[int] = []
        self.states: dict[int, int] = {}
        """Row id -> seed of the carry last written at it."""
        self.cut = dict.fromkeys(range(LANES), True)
        self.last = dict.fromkeys(range(LANES), -1)

    @staticmethod
    def segment(row: int) -> tuple[int, int]:
        return row >> 40, (row & ((1 << 40) - 1)) // SEGMENT

    def add(self, ids: list[int]) -> None:
        for lane, row in enumerate(ids):
            follows = row == self.last[lane] + 1
            assert row >> 40 == lane
            assert row > self.last[lane]
            gone = self.last[lane] not in self.rows
            assert follows != self.cut[lane] or gone or self.last[lane] < 0
            self.last[lane], self.cut[lane] = row, False
            assert row not in self.states
        while len(self.rows) + LANES > CAPACITY or self.too_many(ids):
            oldest = self.segment(self.rows[0])
            self.rows = [row for row in self.rows if self.segment(row) != oldest]
        self.rows += ids

    def too_many(self, ids: list[int]) -> bool:
        return len({self.segment(row) for row in self.rows + ids}) > LARGEST

    def starts(self, length: int) -> list[int]:
        held = set(self.rows)
        return [row for row in self.rows if all(row + t in held for t in range(length))]


class Machine(RuleBasedStateMachine):
    carry = "stored"
    toys: Any = None

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stream = self.toys.Stream(LANES, longest=4)
        self.replay = self.make()
        self.burnin = self.replay.burnin
        self.oracle = Oracle()
        self.checkpoints: list[tuple[Path, Oracle, dict]] = []
        self.seed = 0
        self.batch: Any = None

    def make(self):
        return self.toys.replay(
            LANES,
            self.folder / "rows",
            capacity=CAPACITY,
            segment=SEGMENT,
            batch_length=LENGTH,
            carry=self.carry,
            online=True,
        )

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(rows=strategies.integers(1, 9))
    def add(self, rows):
        for _ in range(rows):
            self.oracle.add(self.stream.add_to(self.replay))

    @rule(lane=strategies.integers(0, LANES - 1))
    def end_lane(self, lane):
        self.replay.end_lane(lane)
        self.oracle.cut[lane] = True

    @precondition(lambda self: self.replay.can_sample(LENGTH))
    @rule(purpose=strategies.sampled_from(["learn", "imagine"]))
    def sample(self, purpose):
        batch = self.replay.sample(4, LENGTH, purpose)
        self.stream.check(batch)
        allowed = set(self.oracle.starts(LENGTH + self.burnin))
        assert set(batch.index[:, 0].tolist()) <= allowed
        assert batch.index.shape == (4, LENGTH + self.burnin)
        assert torch.equal(batch.reset[:, 1:], batch.is_first[:, 1:])
        self.check_carry(batch)
        if purpose == "learn":
            self.batch = batch

    def check_carry(self, batch):
        for b, start in enumerate(batch.index[:, 0].tolist()):
            written = self.oracle.states.get(start - 1)
            if self.carry == "stored":
                known = written is not None and start - 1 in self.oracle.rows
                assert batch.reset[b, 0] == (batch.is_first[b, 0] | (not known))
            known = not batch.reset[b, 0]
            assert not (known and batch.carry is None)
            if known:
                assert written is not None
                expected = self.toys.carry_of([written])
                assert self.toys.same_carry(batch.carry.index(torch.tensor([b])), expected)

    @precondition(lambda self: self.batch is not None)
    @rule()
    def update(self):
        ids = self.batch.index.flatten().tolist()
        seeds = list(range(self.seed, self.seed + len(ids)))
        self.seed += len(ids)
        self.replay.update(self.batch.index.flatten(), self.toys.carry_of(seeds))
        self.oracle.states.update(zip(ids, seeds, strict=True))

    @precondition(lambda self: len(self.checkpoints) < 4)
    @rule()
    def save(self):
        directory = self.folder / f"checkpoint{len(self.checkpoints)}"
        directory.mkdir()
        self.replay.save(directory)
        kept = copy.deepcopy(self.oracle), dict(self.stream.log)
        self.checkpoints.append((directory, *kept))

    @precondition(lambda self: self.checkpoints)
    @rule(which=strategies.integers(0, 3), fresh=strategies.booleans())
    def restore(self, which, fresh):
        directory, oracle, log = self.checkpoints[which % len(self.checkpoints)]
        self.replay = self.make() if fresh else self.replay
        self.replay.restore(directory)
        self.oracle, self.stream.log = copy.deepcopy(oracle), dict(log)
        self.batch = None

    @precondition(lambda self: self.replay.can_sample(LENGTH))
    @rule()
    def save_and_restore_change_nothing(self):
        directory = self.folder / "passing"
        directory.mkdir()
        self.replay.save(directory)
        expected = [self.replay.sample(4, LENGTH) for _ in range(3)]
        self.replay.restore(directory)
        assert all(self.toys.same_batch(self.replay.sample(4, LENGTH), one) for one in expected)
        self.replay.restore(directory)
        shutil.rmtree(directory)

    @rule()
    def collect_garbage(self):
        self.replay.collect_garbage([directory for directory, _, _ in self.checkpoints])

    @invariant()
    def rows_agree(self):
        assert self.replay.rows == len(self.oracle.rows) <= CAPACITY
        for length in (1, LENGTH, 6):
            expected = len(self.oracle.starts(length + self.burnin))
            assert self.replay.eligible(length) == expected

    @invariant()
    def memory_is_bounded(self):
        assert self.replay.bytes <= LARGEST * SEGMENT * self.replay._row_bytes


@pytest.mark.parametrize("carry", ["stored", "continue", "burnin:2"])
def test_any_interleaving_agrees_with_a_list_of_rows(toys, carry):
    machine = type("Machine", (Machine,), {"carry": carry, "toys": toys})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
