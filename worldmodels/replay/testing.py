"""Public checks for a retention or a sampler of your own: plays rows into a small replay.

from worldmodels.replay.testing import check_retention, check_sampler
check_retention("my_package.my_module:MyRetention")
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.objects import Batch
from worldmodels.replay.replay import Replay

LANES, SEGMENT, WINDOW, CAPACITY = 2, 8, 4, 128
SPEC = EnvSpec("check", {"where": ObsSpec((2,), "vector")}, ActionSpec("discrete", 2))


@dataclass(frozen=True)
class _Options:
    retention: str = "fifo"
    sampling: str = "uniform"
    capacity: int = CAPACITY
    batch_size: int = 8
    batch_length: int = WINDOW
    carry: str = "zero"
    long_term_share: float = 0.5
    coin: str = "row"
    storage: str = "ram"
    online: bool = False
    segment: int = SEGMENT


def check_retention(name: str, rounds: int = 200, seed: int = 0) -> None:
    """AssertionError where the retention `name` breaks a rule of replays.

    Rows arrive and lanes are cut at random. The rules: memory is bounded by `max_segments`; a
    window holds what arrived, in order, and only resident rows; what nobody `holds` is gone; a
    replay that was saved and restored goes on the same, row for row; and without a segment whose
    file was lost, it goes on by the same rules.
    """
    _check(_Options(retention=name), rounds, seed)


def check_sampler(text: str, rounds: int = 200, seed: int = 0) -> None:
    """AssertionError where the sampler, or mixture of samplers, breaks a rule of replays.

    As `check_retention`, with the sampler over the pools of `wmar`.
    """
    _check(_Options(retention="wmar", sampling=text), rounds, seed)


def _check(options: _Options, rounds: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, other = (
            _Player(options, Path(folder, name), seed) for name in ("uninterrupted", "interrupted")
        )
        for number in range(rounds):
            batches = [player.play(number) for player in (one, other)]
            for batch in batches:
                if batch is not None:
                    one.check_batch(batch)
            one.check_bounds()
            _same(*batches)
            if number % 17 == 16:
                other.interrupt(number)
        for number in range(rounds, rounds + rounds // 10):
            other.lose_a_segment(number)
            batch = other.play(number)
            if batch is not None:
                other.check_batch(batch)
            other.check_bounds()
        for player in (one, other):
            player.replay.close()


class _Player:
    """A replay and the log of what was added to it."""

    def __init__(self, options: _Options, folder: Path, seed: int):
        folder.mkdir()
        self._options, self._folder, self._seed = options, folder, seed
        self._random = np.random.default_rng(seed)
        self._log: dict[int, tuple[float, float]] = {}
        self._clock = 0
        self.replay = self._make()

    def _make(self) -> Replay:
        return Replay(self._options, SPEC, None, LANES, self._folder / "rows", self._seed)

    def play(self, number: int) -> Batch | None:
        """A few rows, perhaps a cut; then a batch, where there is one."""
        for _ in range(int(self._random.integers(1, 2 * SEGMENT))):
            self._add()
        if number % 5 == 4:
            self.replay.end_lane(int(self._random.integers(LANES)))
        purpose = "learn" if self._random.random() < 0.7 else "imagine"
        return self.replay.sample(8, WINDOW, purpose) if self.replay.can_sample(WINDOW) else None

    def _add(self) -> None:
        where = np.stack([np.arange(LANES), np.full(LANES, self._clock)], 1).astype(np.float32)
        first = np.full(LANES, self._clock % 7 == 0)
        no, yes = np.zeros(LANES, np.bool_), np.ones(LANES, np.bool_)
        reward = np.where(first, 0, self._random.normal(size=LANES)).astype(np.float32)
        step = Step({"where": where}, reward, first, no, no, no, yes, ~first)
        ids = self.replay.add(step, np.where(first, -1, 1)).tolist()
        self._log |= {row: (lane, self._clock) for lane, row in enumerate(ids)}
        self._clock += 1

    def interrupt(self, number: int) -> None:
        """Save, and go on in a fresh replay."""
        directory = self._saved(number)
        self.replay.close()
        self.replay = self._make()
        self.replay.restore(directory)

    def lose_a_segment(self, number: int) -> None:
        """Save, and go on without one of the segments that have a file, if there are two."""
        directory = self._saved(number)
        filed = [s for s in self.replay._store.segments.values() if s.file]
        if len(filed) < 2:
            return
        lost = filed[int(self._random.integers(len(filed)))]
        assert lost.file is not None
        (self._folder / "rows" / lost.file.name).unlink()
        self.replay.close()
        self.replay = self._make()
        self.replay.restore(directory, drop_damaged=True)
        assert not self.replay._retention.holds(lost), (
            f"segment {lost.first} was lost, but `holds` says that it is kept"
        )

    def _saved(self, number: int) -> Path:
        directory = self._folder / f"checkpoint_{number}"
        directory.mkdir()
        self.replay.save(directory)
        return directory

    def check_batch(self, batch: Batch) -> None:
        """Every row is what arrived under its id, and rows follow each other."""
        for ids, rows in zip(batch.index.tolist(), batch.obs["where"].tolist(), strict=True):
            assert [self._log.get(row) for row in ids] == [tuple(row) for row in rows], (
                f"a window from row {ids[0]} on does not hold what arrived under its ids"
            )
            assert np.diff(ids).tolist() == [1] * (WINDOW - 1), "a window's ids are not consecutive"

    def check_bounds(self) -> None:
        """No more memory than announced, and no row that nobody keeps."""
        retention, store = self.replay._retention, self.replay._store
        count = len(store.segments)
        assert count <= retention.max_segments, (
            f"{count} segments are resident, more than max_segments = {retention.max_segments}"
        )
        for name, (pool, share) in retention.pools.items():
            assert share > 0, f"pool '{name}' has no share of the draws"
            for first, rows in pool.runs():
                assert store.holds(first, rows), f"pool '{name}' offers rows that are gone"
        for segment in store.segments.values():
            assert segment.open or retention.holds(segment), (
                f"segment {segment.first} is resident, but `holds` says that nobody keeps it"
            )


def _same(a: Batch | None, b: Batch | None) -> None:
    assert (a is None) == (b is None), "after a restore, other windows can be drawn"
    if a is not None and b is not None:
        assert torch.equal(a.index, b.index), "after a restore, other windows are drawn"
