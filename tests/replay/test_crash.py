"""T10: a process that is killed, at any call to the system, loses at most the row in flight."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from tests.replay.killing import in_child, killed_while
from worldmodels.errors import UserError

LANES, SEGMENT, LENGTH = 2, 4, 3
MEMORY = Path("/dev/shm")


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path)


def make(toys, folder, **options):
    rows = folder / "rows" if folder else None
    options = {"capacity": 400, "segment": SEGMENT, "batch_length": LENGTH, **options}
    return toys.replay(LANES, rows, **options)


class Work:
    """A fixed list of operations on a replay; what was true after each of them."""

    def __init__(self, toys, folder, script: str, **options):
        self.toys, self.folder, self.script, self.options = toys, folder, script, options

    def __call__(self, done=None) -> "Work":
        self.replay = make(self.toys, self.folder, **self.options)
        self.stream = self.toys.Stream(LANES, longest=4)
        self.logs: list[dict] = [{}]
        """By number of operations that are done: id -> row that should be there."""
        self.saved: dict[int, Path] = {}
        for number, letter in enumerate(self.script, 1):
            self._do(number, letter)
            self.logs.append(dict(self.stream.log))
            if done:
                done.add()
        return self

    def _do(self, number: int, letter: str) -> None:
        if letter == "a":
            self.stream.add_to(self.replay)
        elif letter == "c":
            self.replay.end_lane(0)
        elif letter == "s":
            directory = self.saved[number] = self.folder / f"checkpoint{number}"
            directory.mkdir()
            self.replay.save(directory)
        elif letter == "g":
            self.replay.collect_garbage(list(self.saved.values()))
        elif letter == "r":
            number, directory = max(self.saved.items())
            self.replay.restore(directory)
            self.stream.log = dict(self.logs[number])
        elif letter == "k":  # the process before this one was killed; it lost nothing
            self.replay = make(self.toys, self.folder, **self.options)
            assert self.replay.recover().lost == 0


def resident(replay) -> list[int]:
    segments = replay._store.segments.values()
    return [segment.first + row for segment in segments for row in range(segment.rows)]


def same_rows(toys, replay, log) -> bool:
    """Whether all resident rows are what `log` says, read one by one."""
    ids = resident(replay)
    fields = replay._layout.unpack(replay._store.read(ids, 1)) if ids else {}
    for place, row in enumerate(ids):
        if row not in log:
            return False
        for name, value in log[row].items():
            found = fields["obs"][name[4:]] if name.startswith("obs.") else fields[name]
            if not np.array_equal(found[place, 0].numpy(), value):
                return False
    return True


def draws(replay):
    return [replay.sample(4, LENGTH) for _ in range(10)] if replay.can_sample(LENGTH) else []


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("aaaaacaa", {}),
        ("aaaaasa", {"carry": "continue", "sampling": "dfs"}),
        ("aasaaaga", {"storage": "disk"}),
        ("aaasaaraa", {}),
        ("aaacaka", {"storage": "disk"}),
        ("aackgka", {"retention": "wmar"}),
    ],
)
def test_a_kill_at_any_call_loses_at_most_the_row_in_flight(toys, folder, script, options, torn):
    whole = Work(toys, folder / "whole", script, **options)()
    expected = {}
    for number, directory in whole.saved.items():
        again = make(toys, whole.folder, **options)
        again.restore(directory)
        expected[number] = draws(again)
    at, killed = 0, True
    while killed:
        at += 1
        work = Work(toys, folder / f"at{at}", script, **options)
        done, killed = in_child(work, at, torn)
        check_what_is_left(toys, work, whole, done, killed)
        check_checkpoints(toys, work, whole, done, expected)
        shutil.rmtree(work.folder)
    assert at > 2 * len(script)


def check_what_is_left(toys, work, whole, done, killed):
    copied = work.folder / "copied"
    if (work.folder / "rows").is_dir():
        shutil.copytree(work.folder / "rows", copied / "rows")
    replay = make(toys, copied, **work.options)
    recovered = replay.recover()
    assert recovered.notes == ()
    before, after = whole.logs[done], whole.logs[min(done + 1, len(work.script))]
    ids = set(resident(replay))
    if "r" in work.script[max(done - 1, 0) : done + 1]:
        # After a restore the folder shows the old view, whole, until the next row is there.
        views = [whole.logs[done - 1], before, after]
        same = [log for log in views if same_rows(toys, replay, log)]
        assert any(set(log) - {*list(log)[-LANES:]} <= ids <= set(log) for log in same)
        ids |= set(whole.logs[done - 1])
    else:
        assert same_rows(toys, replay, after)
        assert set(before) <= ids
        in_flight = set(after) - ids
        assert recovered.lost in ((0, len(in_flight)) if killed else (0,))
        assert recovered.rows == len(ids)
        ids |= set(before)
    new = toys.Stream(LANES, seed=5).add_to(replay, 5)
    assert not ids & {*new, *(row - 1 for row in new[:LANES])}
    (work.folder / "again").mkdir()
    replay.save(work.folder / "again")
    replay.collect_garbage([])
    left = {path.name for path in (copied / "rows").iterdir()}
    needed = {s.file.name for s in replay._store.segments.values() if s.file}
    tails = {tail.path.name for tail in replay._keeper._journal._tails.values()}
    assert left == {"layout.json", "manifest.jsonl", "arrived.i64", *needed, *tails}


def check_checkpoints(toys, work, whole, done, expected):
    for number, batches in expected.items():
        replay = make(toys, work.folder, **work.options)
        directory = work.folder / whole.saved[number].name
        try:
            replay.restore(directory)
        except UserError:
            assert done < number
            continue
        assert all(map(toys.same_batch, draws(replay), batches))


@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_a_kill_at_any_moment(toys, folder, storage):
    random = np.random.default_rng(3)
    for round in range(18):
        work = Work(toys, folder / f"round{round}", ("a" * 5 + "s") * 200, storage=storage)
        pid, done = killed_while(work)
        while not done.count:
            time.sleep(0.001)
        time.sleep(float(random.uniform(0, 0.06)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        whole = Work(toys, None, "a" * (done.count - done.count // 6 + 1))()
        replay = make(toys, work.folder, storage=storage)
        assert work.folder.name == f"round{round}"
        acknowledged = LANES * (done.count - done.count // 6)
        recovered = replay.recover()
        ids = set(resident(replay))
        assert same_rows(toys, replay, whole.logs[-1])
        assert set(whole.logs[acknowledged // LANES]) <= ids or len(whole.logs[-1]) > 400
        assert recovered.lost <= LANES
        if saves := done.count // 6:
            again = make(toys, work.folder, storage=storage)
            again.restore(work.folder / f"checkpoint{6 * saves}")
            reference = Work(toys, None, "a" * 5 * saves)()
            assert all(map(toys.same_batch, draws(again), draws(reference.replay)))
        shutil.rmtree(work.folder)
