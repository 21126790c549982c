"""What `recover` makes of files that are cut or altered, and how many rows it says are lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.replay.journal import Journal
from worldmodels.replay.manifest import read_manifest

SEGMENT = 4


def make(toys, folder, lanes=1, **options):
    options = {"capacity": 100, "segment": SEGMENT, "batch_length": 2, **options}
    return toys.replay(lanes, folder, **options)


def filled(toys, folder, rows, lanes=1, **options):
    stream, replay = toys.Stream(lanes, longest=4), make(toys, folder, lanes, **options)
    stream.add_to(replay, rows)
    return stream, replay


def check_rows(stream, replay):
    """Every resident row is what arrived; returns their ids."""
    segments = replay._store.segments.values()
    ids = sorted(segment.first + row for segment in segments for row in range(segment.rows))
    for row in ids:
        found = replay._layout.unpack(replay._store.read([row], 1))
        np.testing.assert_array_equal(found["obs"]["where"][0, 0], stream.log[row]["obs.where"])
        assert float(found["reward"][0, 0]) == stream.log[row]["reward"]
    return ids


def test_a_tail_cut_at_any_byte_keeps_its_whole_rows(toys, tmp_path):
    stream, _ = filled(toys, tmp_path / "rows", SEGMENT + 3)
    (tail,) = (tmp_path / "rows").glob("tail_*.rows")
    data = tail.read_bytes()
    size = len(data) // 3
    for length in range(len(data) + 1):
        folder = Path(shutil.copytree(tmp_path / "rows", tmp_path / f"cut{length}"))
        (folder / tail.name).write_bytes(data[:length])
        replay = make(toys, folder)
        recovered = replay.recover()
        whole = length // size
        assert (recovered.rows, recovered.lost) == (SEGMENT + whole, 3 - whole)
        assert check_rows(stream, replay) == list(range(SEGMENT + whole))
        shutil.rmtree(folder)


def test_an_altered_tail_gives_the_rows_before_the_damage(toys, tmp_path):
    stream, _ = filled(toys, tmp_path / "rows", 3)
    (tail,) = (tmp_path / "rows").glob("tail_*.rows")
    data = tail.read_bytes()
    for place in range(0, len(data), 5):
        folder = Path(shutil.copytree(tmp_path / "rows", tmp_path / f"at{place}"))
        altered = bytearray(data)
        altered[place] ^= 16
        (folder / tail.name).write_bytes(altered)
        replay = make(toys, folder)
        recovered = replay.recover()
        good = place // (len(data) // 3)
        assert (recovered.rows, recovered.lost) == (good, 3 - good)
        assert check_rows(stream, replay) == list(range(good))
        shutil.rmtree(folder)


def test_a_manifest_line_cut_at_any_byte_falls_back_on_the_tail(toys, tmp_path, monkeypatch):
    """The tail goes only once the line is whole."""
    stream, replay = filled(toys, tmp_path / "rows", 2 * SEGMENT - 1)
    manifest = tmp_path / "rows" / "manifest.jsonl"
    before = manifest.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        stream.add_to(replay)
    line = manifest.read_bytes()[len(before) :]
    assert line.count(b"\n") == 1
    for length in range(len(line) + 1):
        folder = Path(shutil.copytree(tmp_path / "rows", tmp_path / f"cut{length}"))
        (folder / manifest.name).write_bytes(before + line[:length])
        again = make(toys, folder)
        recovered = again.recover()
        assert (recovered.rows, recovered.lost, recovered.notes) == (2 * SEGMENT, 0, ())
        assert check_rows(stream, again) == list(range(2 * SEGMENT))
        stream.add_to(again)
        assert len(read_manifest(folder)) == 2
        shutil.rmtree(folder)
        for row in [row for row in stream.log if row >= 2 * SEGMENT]:
            del stream.log[row]


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_manifest_cut_anywhere_serves_nothing_wrong(toys, tmp_path, cut):
    stream, _ = filled(toys, tmp_path, 2 * SEGMENT + 2)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:cut])
    replay = make(toys, tmp_path)
    recovered = replay.recover()
    ids = check_rows(stream, replay)
    assert recovered.rows == len(ids)
    assert {2 * SEGMENT, 2 * SEGMENT + 1} <= set(ids)
    fresh = toys.Stream(1, seed=9)
    assert fresh.add_to(replay)[0] > 2 * SEGMENT + 2


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_damaged_segment_is_named_and_counted_once(toys, tmp_path, which):
    stream, _ = filled(toys, tmp_path, 3 * SEGMENT)
    path = sorted(tmp_path.glob("segment_*"))[which]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    replay = make(toys, tmp_path)
    recovered = replay.recover()
    assert (recovered.rows, recovered.lost) == (2 * SEGMENT, SEGMENT)
    assert path.name in recovered.notes[0]
    assert len(check_rows(stream, replay)) == 2 * SEGMENT
    assert stream.add_to(replay)[0] > 3 * SEGMENT


def test_a_row_that_began_to_arrive_is_counted(toys, tmp_path, monkeypatch):
    stream, replay = filled(toys, tmp_path, 2, lanes=2)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", killed)
        with pytest.raises(Killed):
            stream.add_to(replay)
    recovered = make(toys, tmp_path, 2).recover()
    assert (recovered.rows, recovered.lost) == (4, 2)


def test_what_is_skipped_or_dropped_on_purpose_is_no_loss(toys, tmp_path):
    """Ids that a cut or a recovery skips; rollouts that a reservoir refuses."""
    _, replay = filled(toys, tmp_path / "cut", 6)
    replay.end_lane(0)
    replay.collect_garbage([])
    for _ in range(3):
        assert make(toys, tmp_path / "cut").recover().lost == 0
    options = {"retention": "reservoir", "capacity": 32}
    _, replay = filled(toys, tmp_path / "refused", 1, **options)
    for length in (1, 3, 40):
        toys.Stream(1).add_to(replay, length)
        replay.end_lane(0)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "refused", tmp_path / "copy")
        assert make(toys, tmp_path / "copy", **options).recover().lost == 0


@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar"])
def test_files_that_were_collected_are_missed_by_nobody(toys, tmp_path, retention):
    options = {"retention": retention, "capacity": 64}
    stream, replay = filled(toys, tmp_path, 301, **options)
    deleted = replay.collect_garbage([])
    assert deleted or retention == "reservoir"
    again = make(toys, tmp_path, **options)
    recovered = again.recover()
    assert (recovered.rows, recovered.lost, recovered.notes) == (replay.rows, 0, ())
    assert check_rows(stream, again) == check_rows(stream, replay) or retention == "reservoir"
    assert again.collect_garbage([]) == []


def test_a_folder_with_rows_must_be_taken_up_or_cleared(toys, tmp_path):
    filled(toys, tmp_path, 6)
    replay = make(toys, tmp_path)
    with pytest.raises(UserError, match=r"holds rows of another process; call recover\(\)"):
        toys.Stream(1).add_to(replay)
    assert replay.rows == 0
    replay.clear()
    stream = toys.Stream(1)
    stream.add_to(replay, 5)
    assert make(toys, tmp_path).recover().rows == 5
    with pytest.raises(UserError, match="nothing on disk"):
        make(toys, None).recover()


def test_lanes_are_cut_and_states_forgotten(toys, tmp_path):
    stream, replay = filled(toys, tmp_path, 6, carry="stored", sampling="dfs")
    batch = replay.sample(3, 2)
    ids = batch.index.flatten()
    replay.update(ids, toys.carry_of(ids.tolist()))
    again = make(toys, tmp_path, carry="stored", sampling="dfs")
    again.recover()
    assert again.eligible(2) == 5
    assert again.sample(5, 2).reset[:, 0].all()
    stream.add_to(again, 3)
    assert again.eligible(2) == 5 + 2
    stream.check(again.sample(7, 2))
