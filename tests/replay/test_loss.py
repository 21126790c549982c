"""What a folder knows of rows that are in no file, and that no descriptor outlives a replay."""

import errno
import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.replay.folder import ReplayFolder

SEGMENT, LANES = 4, 2


def make(toys, folder, **options):
    options = {"capacity": 400, "segment": SEGMENT, "batch_length": 2, **options}
    return toys.replay(LANES, folder, **options)


def ids_of(pieces) -> set[int]:
    return {piece.first + row for piece in pieces for row in range(piece.rows)}


class Full:
    """A disk that takes so many more writes, and then none."""

    def __init__(self, monkeypatch, room: int):
        self.room = room
        for module, name in ((os, "write"), (np, "savez")):
            monkeypatch.setattr(module, name, self._limited(getattr(module, name)))

    def _limited(self, call):
        def limited(*args, **named):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= 1
            return call(*args, **named)

        return limited


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options", [{}, {"capacity": 64}, {"retention": "reservoir", "capacity": 64}], ids=str
)
def test_a_loss_is_exact_whatever_could_not_be_written(toys, tmp_path, monkeypatch, options, seed):
    """Rows, cuts and checkpoints on a disk that is full at times; killed after each of them."""
    random = np.random.default_rng(seed)
    stream, replay = toys.Stream(LANES, longest=4), make(toys, tmp_path / "replay", **options)
    stream.add_to(replay)
    (tmp_path / "at").mkdir()
    worst = 0
    for _ in range(16):
        room = int(random.choice([0, 0, 0, 1, 2, 1000]))
        with monkeypatch.context() as patch:
            Full(patch, room)
            for _ in range(random.integers(1, 2 * SEGMENT)):
                try:
                    work(toys, replay, stream, tmp_path / "at", random)
                except UserError:
                    assert room < 1000
        worst = max(worst, lost_by_a_kill(toys, replay, tmp_path, **options))
    assert worst > 2 * SEGMENT or options


def lost_by_a_kill(toys, replay, run, **options) -> int:
    """Resident rows that are in no file: as many as `recover` says."""
    folder = ReplayFolder(run)
    lost = len(ids_of(replay._store.segments.values()) - ids_of(folder.pieces()))
    copy = Path(shutil.copytree(run / "replay", run / "copy"))
    with make(toys, copy, **options) as again:
        recovered = again.recover()
    shutil.rmtree(copy)
    assert (recovered.lost, recovered.notes) == (lost, ())
    assert (lost == 0) <= all(not why for _, why in folder.verify())
    return lost


def work(toys, replay, stream, directory, random):
    kind = random.choice(["add", "add one", "cut", "save"], p=[0.5, 0.35, 0.1, 0.05])
    if kind == "add":
        replay.add(*stream.step())
    elif kind == "add one":
        replay.add(*toys.Stream(1).step(), lanes=[int(random.integers(LANES))])
    elif kind == "cut":
        replay.end_lane(int(random.integers(LANES)))
    else:
        replay.save(directory)


def test_what_is_written_late_is_no_loss(toys, tmp_path, monkeypatch):
    """A checkpoint seals the closed segments; rows of the open ones wait for the next row."""
    stream, replay = toys.Stream(LANES), make(toys, tmp_path / "replay")
    stream.add_to(replay)
    with monkeypatch.context() as patch:
        Full(patch, 0)
        for _ in range(2 * SEGMENT):
            with pytest.raises(UserError, match="No space left"):
                replay.add(*stream.step())
    assert lost_by_a_kill(toys, replay, tmp_path) == LANES * 2 * SEGMENT
    assert complaints(tmp_path)["arrived.i64"] == "14 rows could not be written and are gone"
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")
    assert lost_by_a_kill(toys, replay, tmp_path) == LANES
    replay.add(*stream.step())
    assert lost_by_a_kill(toys, replay, tmp_path) == 0


def complaints(run) -> dict[str, str]:
    return {what: why for what, why in ReplayFolder(run).verify() if why}


def test_a_deleted_tail_is_noticed(toys, tmp_path):
    replay = make(toys, tmp_path / "replay")
    toys.Stream(LANES).add_to(replay, 2 * SEGMENT + 3)
    assert complaints(tmp_path) == {}
    tails = sorted((tmp_path / "replay").glob("tail_*.rows"))
    assert len(tails) == LANES
    tails[1].unlink()
    # Of the last row nobody knows whether it was in the file, or in flight.
    assert complaints(tmp_path) == {tails[1].name: "it is missing, and 2 rows with it"}
    assert make(toys, tmp_path / "replay").recover().lost == 3


def test_a_tail_cut_between_two_rows_is_noticed(toys, tmp_path):
    replay = make(toys, tmp_path / "replay")
    toys.Stream(LANES).add_to(replay, SEGMENT + 3)
    tail = min((tmp_path / "replay").glob("tail_*.rows"))
    row = tail.stat().st_size // 3
    os.truncate(tail, 2 * row + 5)
    assert complaints(tmp_path) == {tail.name: "its last 5 bytes are torn or damaged"}
    os.truncate(tail, 2 * row)
    assert complaints(tmp_path) == {}, "as after a kill with a row in flight"
    os.truncate(tail, row)
    assert complaints(tmp_path) == {tail.name: "its last 1 rows are missing"}
    os.truncate(tail, row - 1)
    assert complaints(tmp_path) == {tail.name: "its last 2 rows are missing"}


def test_what_left_on_purpose_is_missed_by_nobody(toys, tmp_path):
    """After a restore, an eviction, a cut and a recovery."""
    options = {"retention": "reservoir", "capacity": 40}
    stream, replay = toys.Stream(LANES), make(toys, tmp_path / "replay", **options)
    for rows in (1, 3, 21):
        stream.add_to(replay, rows)
        replay.end_lane(0)
        assert complaints(tmp_path) == {}
    (tmp_path / "at").mkdir()
    replay.save(tmp_path / "at")
    stream.add_to(replay, 7)
    again = make(toys, tmp_path / "replay", **options)
    again.restore(tmp_path / "at")
    assert complaints(tmp_path) == {}
    stream.add_to(again, 2)
    assert complaints(tmp_path) == {}
    make(toys, tmp_path / "replay", **options).recover()
    assert complaints(tmp_path) == {}


def test_a_file_of_counts_that_is_gone_is_told(toys, tmp_path):
    toys.Stream(LANES).add_to(make(toys, tmp_path / "replay"), 5)
    (tmp_path / "replay" / "arrived.i64").unlink()
    assert complaints(tmp_path) == {"arrived.i64": "it is missing"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of open files")
@pytest.mark.parametrize("storage", ["ram", "disk", "device"])
@pytest.mark.parametrize("carry", ["stored", "zero"])
def test_no_descriptor_outlives_a_replay(toys, tmp_path, storage, carry):
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    options = {"storage": storage, "carry": carry, "capacity": 200}
    gc.collect()  # replays of other tests
    before = opened()
    (tmp_path / "at").mkdir()
    with make(toys, tmp_path / "replay", **options) as replay:
        stream = toys.Stream(LANES)
        stream.add_to(replay, 70)
        replay.sample(16, 2)
        replay.save(tmp_path / "at")
        stream.add_to(replay, 3)
        assert opened() > before
    assert opened() == before
    for take_up in ("restore", "recover", "clear"):
        replay = make(toys, tmp_path / "replay", **options)
        for _ in range(2):
            getattr(replay, take_up)(*([tmp_path / "at"] if take_up == "restore" else []))
            stream.add_to(replay, 9)
            replay.sample(4, 2)
        replay.close()
        replay.close()
        assert opened() == before
    rows = make(toys, tmp_path / "replay", **options)
    assert (rows.recover().rows, rows.rows) == (LANES * 9, LANES * 9)
