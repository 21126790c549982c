"""T11: any interleaving of everything a replay does, kills too, agrees with lists of rows."""

import copy
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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

from tests.replay.oracle import LANES, PART, ROLLOUTS, SEED, SEGMENT, Oracle
from worldmodels.replay.checkpoint import read_checkpoint

LENGTH = 3
MEMORY = Path("/dev/shm")
"""Syncing a file costs nothing there."""


class Machine(RuleBasedStateMachine):
    toys: Any = None
    storage, retention, sampling, coin, carry, online = "ram", "fifo", "uniform", "batch", "zero", 0

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.stream = self.toys.Stream(LANES, longest=4)
        self.replay = self.make()
        self.length = LENGTH + self.replay.burnin
        self.oracle = Oracle(self.retention, self.length)
        self.checkpoints: list[tuple[Path, Oracle, dict]] = []
        self.seed = 0
        self.batch: Any = None

    def make(self):
        return self.toys.replay(
            LANES,
            self.folder / "rows",
            seed=SEED,
            capacity=2 * PART if self.retention == "wmar" else PART,
            segment=SEGMENT,
            batch_length=LENGTH,
            carry=self.carry,
            online=bool(self.online),
            retention=self.retention,
            sampling=self.sampling,
            storage=self.storage,
            coin=self.coin,
        )

    def kill(self):
        """As SIGKILL does: no code of the old process runs, its files are closed by the system."""
        keeper = self.replay._keeper
        handles = [tail.handle for tail in keeper._journal._tails.values()]
        for handle in handles:
            os.close(handle)
        for file in getattr(keeper.store.storage, "_files", {}).values():
            file.close()
        self.replay = self.make()
        self.batch = None

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(rows=strategies.integers(1, 9))
    def add(self, rows):
        self.first_write()
        for _ in range(rows):
            self.oracle.add(self.stream.add_to(self.replay))

    @rule(lane=strategies.integers(0, LANES - 1))
    def end_lane(self, lane):
        self.first_write()
        self.replay.end_lane(lane)
        self.oracle.end_lane(lane)

    @precondition(lambda self: self.replay.can_sample(LENGTH))
    @rule(purpose=strategies.sampled_from(["learn", "imagine"]), twice=strategies.booleans())
    def sample(self, purpose, twice):
        count = 8 if twice and self.carry != "continue" else 4
        batch = self.replay.sample(count, LENGTH, purpose)
        self.stream.check(batch)
        starts = batch.index[:, 0].tolist()
        pools = self.oracle.starts(self.length)
        allowed = {start for pool in pools for start in pool}
        if purpose == "learn" and (self.online or self.carry == "continue"):
            allowed.update(self.oracle.stitched(self.length))
        assert set(starts) <= allowed
        if self.sampling == "dfs" and len(pools) == 1 and not self.online:
            assert len(set(starts)) == min(count, len(pools[0]))
            self.oracle.drawn(starts, purpose)
        assert batch.index.shape == (count, self.length)
        assert torch.equal(batch.reset[:, 1:], batch.is_first[:, 1:])
        self.check_carry(batch)
        if purpose == "learn":
            self.batch = batch

    def check_carry(self, batch):
        resident = {row for piece in self.oracle.resident for row in piece.ids}
        for b, start in enumerate(batch.index[:, 0].tolist()):
            written = self.oracle.states.get(start - 1)
            if self.carry == "stored":
                known = written is not None and start - 1 in resident
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
        if fresh:
            self.kill()
        found = self.replay.restore(directory)
        assert found.lost == 0
        self.go_back_to(oracle, log)

    def go_back_to(self, oracle, log):
        self.show()
        shown, self.oracle = self.oracle.shown, copy.deepcopy(oracle)
        self.oracle.shown, self.stream.log = shown, dict(log)
        self.batch = None

    @precondition(lambda self: self.checkpoints)
    @rule(
        which=strategies.integers(0, 3),
        places=strategies.sets(strategies.integers(0, 15), min_size=1),
    )
    def restore_what_is_left(self, which, places):
        """Some segment files are away for a while: their rows leave, and all others stay."""
        directory, oracle, log = self.checkpoints[which % len(self.checkpoints)]
        segments = read_checkpoint(directory)["store"]["segments"]
        filed = [(first, file["name"]) for first, _, _, file in segments if file]
        missing = [filed[place] for place in places if place < len(filed)]
        if not 0 < len(missing) < len(filed):
            return
        paths = [self.folder / "rows" / name for _, name in missing]
        for path in paths:
            path.rename(path.with_suffix(".away"))
        found = self.replay.restore(directory, drop_damaged=True)
        for path in paths:
            path.with_suffix(".away").rename(path)
        self.go_back_to(oracle, log)
        assert found.lost == self.oracle.lose({first for first, _ in missing})

    def show(self):
        """A restore begins: until something is written, the folder shows what is there now."""
        if self.oracle.shown is None:
            self.oracle.shown = self.oracle.listed
            self.shown_log = self.stream.log

    def first_write(self):
        """After a restore, this is what the folder shows."""
        if self.oracle.shown is not None:
            self.oracle.begin_anew()

    @rule()
    def crash(self):
        """Every row that was added comes back; what was not written as it arrived is forgotten."""
        self.kill()
        if self.oracle.shown is not None:
            self.oracle.listed, self.stream.log = self.oracle.shown, dict(self.shown_log)
        recovered = self.replay.recover()
        assert (recovered.rows, recovered.lost) == (self.oracle.recover(), 0)
        assert recovered.notes == ()

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
        self.show()
        shutil.rmtree(directory)

    @rule()
    def collect_garbage(self):
        self.replay.collect_garbage([directory for directory, _, _ in self.checkpoints])
        self.oracle.begin_anew()

    @invariant()
    def rows_agree(self):
        resident = self.oracle.resident
        assert self.replay.rows == sum(piece.rows for piece in resident)
        held = self.replay._store.segments
        assert {(s.first, s.rows) for s in held.values() if s.rows} == {
            (piece.first, piece.rows) for piece in resident
        }
        for length in (1, LENGTH, 6):
            rows = length + self.replay.burnin
            assert self.replay.eligible(length) == sum(map(len, self.oracle.starts(rows)))

    @invariant()
    def memory_is_bounded(self):
        replay = self.replay
        largest = (ROLLOUTS + LANES) * (2 if self.retention == "wmar" else 1)
        assert len(replay._store.segments) <= largest
        in_ram = 2 * LANES if self.storage == "disk" else largest
        assert replay.bytes <= in_ram * SEGMENT * replay._row_bytes
        assert replay._store.storage.slots <= largest

    @precondition(lambda self: self.sampling == "dfs" and self.retention != "wmar")
    @invariant()
    def weights_agree(self):
        """Each start weighs what its counters say, and nothing else weighs anything."""
        (sampler,) = self.replay._samplers.values()
        sampler._admit_waiting()
        for starts in () if self.online else sampler._starts.values():
            (eligible,) = self.oracle.starts(starts.rows)
            wanted = np.array([self.oracle.weight(start, starts.purpose) for start in eligible])
            assert starts.eligible.sum() == len(eligible)
            leaves = [int(sampler._leaves(start, 1)[0]) for start in eligible]
            found = starts.weights.weights(np.array(leaves, np.int64))
            scale = np.exp(-starts.base / 10)
            np.testing.assert_allclose(found, wanted * scale, rtol=1e-9)
            assert np.isclose(starts.weights.total, wanted.sum() * scale)


@pytest.mark.parametrize(
    ("storage", "retention", "sampling", "coin", "carry", "online"),
    [
        ("ram", "fifo", "uniform", "batch", "stored", 1),
        ("disk", "fifo", "dfs", "batch", "burnin:2", 0),
        ("device", "fifo", "recency", "row", "continue", 1),
        ("disk", "reservoir", "uniform", "batch", "stored", 1),
        ("ram", "reservoir", "dfs", "batch", "stored", 0),
        ("device", "reservoir", "uniform:0.5+recency:0.5", "row", "burnin:2", 1),
        ("ram", "wmar", "uniform", "batch", "burnin:2", 1),
        ("disk", "wmar", "uniform:0.5+recency:0.5", "row", "stored", 0),
        ("device", "wmar", "dfs", "row", "stored", 1),
    ],
)
def test_any_interleaving_agrees_with_lists_of_rows(
    toys, storage, retention, sampling, coin, carry, online
):
    parts = {"storage": storage, "retention": retention, "sampling": sampling, "coin": coin}
    more = {"carry": carry, "online": online, "toys": toys}
    run_state_machine_as_test(
        type("Machine", (Machine,), {**parts, **more}),
        settings=settings(
            max_examples=14,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.parametrize("storage", ["ram", "disk", "device"])
@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar"])
def test_lanes_of_which_one_is_cut_all_the_time(toys, storage, retention):
    """Short segments, and many of them."""
    parts = {"storage": storage, "retention": retention, "sampling": "dfs", "toys": toys}
    machine = type("Machine", (Machine,), parts)()
    random = np.random.default_rng(0)
    for time in range(90):
        machine.add(1)
        for lane in (0, 1):
            if random.random() < (0.02, 0.9 if time % 50 < 25 else 0.3)[lane]:
                machine.end_lane(lane)
        if time % 41 == 40:
            machine.crash()
        if machine.replay.can_sample(LENGTH):
            machine.sample("learn", twice=False)
        machine.rows_agree()
        machine.memory_is_bounded()
        if retention != "wmar":
            machine.weights_agree()
    machine.teardown()
