"""T7, T12: the newest rows stay, in the memory that was stated; the tier on disk stays flat."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.replay import CorruptReplay, Replay
from worldmodels.replay.disk import OPEN_FILES

TIERS = ["ram", "disk", "device"]
RETENTIONS = ["fifo", "reservoir", "reward_weighted", "coverage", "wmar"]


@pytest.mark.parametrize("storage", TIERS)
@pytest.mark.parametrize("retention", RETENTIONS)
def test_ten_times_as_many_rows_take_no_more_memory(toys, tmp_path, storage, retention):
    stream = toys.Stream(2)
    options = {"storage": storage, "retention": retention, "carry": "stored", "sampling": "dfs"}
    replay = toys.replay(2, tmp_path, capacity=160, segment=8, **options)
    before, text = replay.bytes, replay.describe()
    largest = 160 + (2 if retention == "wmar" else 1) * 2 * 8
    for time in range(800):
        stream.add_to(replay)
        if time % 90 == 0:
            replay.end_lane(1)
        assert replay.rows <= largest
        assert replay._store.storage.slots <= largest // 8
        if storage == "disk":
            assert replay.bytes <= 4 * 8 * replay._row_bytes
        else:
            assert replay.bytes == before <= largest * replay._row_bytes
    stream.check(replay.sample(8, 4))
    assert replay.describe() == text


@pytest.mark.parametrize("storage", TIERS)
@pytest.mark.parametrize("lanes", [1, 3])
def test_exactly_the_newest_rows_stay(toys, tmp_path, storage, lanes):
    stream = toys.Stream(lanes)
    replay = toys.replay(lanes, tmp_path, capacity=96, segment=8, storage=storage)
    ids = stream.add_to(replay, 96 * 10)
    held = {s.first + row for s in replay._store.segments.values() for row in range(s.rows)}
    assert 96 - 8 * lanes < len(held) <= 96
    for lane in range(lanes):
        mine = [row for row in ids if row >> 40 == lane]
        kept = [row for row in mine if row in held]
        assert kept == mine[-len(kept) :]
    assert held <= set(ids)


@pytest.mark.parametrize("storage", TIERS)
@pytest.mark.parametrize("retention", ["fifo", "reservoir"])
def test_a_place_that_is_used_again_holds_no_old_state(toys, tmp_path, storage, retention):
    stream = toys.Stream(2)
    options = {"storage": storage, "retention": retention, "carry": "stored", "segment": 8}
    replay = toys.replay(2, tmp_path, capacity=80, **options)
    written = set()
    for _ in range(8):
        ids = np.array(sorted(stream.add_to(replay, 17)))
        replay.update(ids, toys.carry_of(ids.tolist()))
        written |= set(ids.tolist())
        stream.add_to(replay, 23)
        for _ in range(10):
            batch = replay.sample(16, 4)
            before = batch.index[:, 0] - 1
            known = torch.tensor([row in written for row in before.tolist()])
            for b in range(16):
                resident = replay._store.holds(int(before[b]), 1)
                assert batch.reset[b, 0] == (batch.is_first[b, 0] | ~(known[b] & resident))
                if not (known[b] and resident):
                    assert not any(leaf[b].any() for leaf in batch.carry.values())


@pytest.mark.parametrize("storage", TIERS)
def test_the_state_of_a_row_that_is_gone_is_zeros(toys, tmp_path, storage):
    """Whatever is written at every row that there is memory for."""
    replay = toys.replay(1, tmp_path, capacity=40, segment=8, storage=storage, carry="stored")
    toys.Stream(1).add_to(replay, 100)
    tier = replay._store.storage
    slots = np.arange(tier.slots)
    written = torch.full((len(slots), replay._carry.side.nbytes), 7, dtype=torch.uint8)
    for row in range(8):
        tier.scatter(slots, np.full(len(slots), row), written)
    assert (replay._store.gather([99, 98]) == 7).all()
    assert not replay._store.gather([-1, 0, 1, 1 << 40]).any()


@pytest.mark.parametrize("retention", ["fifo", "reservoir", "wmar"])
def test_what_is_stated_beforehand_is_what_is_taken(toys, tmp_path, retention):
    spec = EnvSpec("wide", {"image": ObsSpec((64, 64, 3), "image")}, ActionSpec("discrete", 2))
    stated = {}
    for storage in TIERS:
        options = toys.Options(
            capacity=1600, segment=64, storage=storage, retention=retention, batch_length=16
        )
        replay = Replay(options, spec, None, 2, tmp_path / storage, seed=0)
        text = replay.describe()
        stated[storage] = int(max(re.findall(r"(\d+) MiB", text), key=int))
        if storage != "disk":
            assert abs(replay.bytes / 2**20 - stated[storage]) <= 0.5
    segments = 2 * (800 // 64 + 2) if retention == "wmar" else 1600 // 64 + 2
    row = 64 * 64 * 3 + 4 * 4  # image; reward, task, flags and action
    assert set(stated.values()) == {round(segments * 64 * row / 2**20)}


@pytest.mark.parametrize("how", ["half", "header", "empty", "missing", "noise"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_damaged_segment_on_disk_is_an_error_and_not_a_signal(toys, tmp_path, how, opened):
    stream = toys.Stream(1)
    replay = toys.replay(1, tmp_path, capacity=40, segment=8, storage="disk")
    stream.add_to(replay, 40)
    if opened:
        stream.check(replay.sample(40, 8))
    for path in tmp_path.glob("segment_*"):
        data = path.read_bytes()
        if how == "missing":
            path.unlink()
        elif how == "noise" and not opened:
            path.write_bytes(bytes(len(data)))
        elif how != "noise":
            with path.open("rb+") as file:
                file.truncate({"half": len(data) // 2, "header": 10, "empty": 0}[how])
    if opened and how in ("missing", "noise"):
        stream.check(replay.sample(40, 8))  # an open file stays readable
        return
    with pytest.raises(CorruptReplay, match=r"segment_\d+.*resume from a checkpoint of before"):
        replay.sample(40, 8)


def test_more_segments_than_files_may_be_open(toys, tmp_path):
    stream = toys.Stream(1)
    rows = 8 * (OPEN_FILES + 40)
    replay = toys.replay(1, tmp_path, capacity=rows, segment=8, storage="disk")
    stream.add_to(replay, rows)
    for _ in range(4):
        stream.check(replay.sample(200, 9))
        assert len(replay._store.storage._files) <= OPEN_FILES


CHILD = """
    import sys
    from pathlib import Path
    import numpy as np, psutil
    from tests.replay.conftest import Options
    from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
    from worldmodels.replay import Replay

    lanes, rows = 4, 12_000
    spec = EnvSpec("wide", {"image": ObsSpec((64, 64, 3), "image")}, ActionSpec("discrete", 2))
    options = Options(
        capacity=rows, segment=100, storage="disk", retention=sys.argv[2], batch_length=16,
    )
    replay = Replay(options, spec, None, lanes, Path(sys.argv[1]), seed=0)
    none, some = np.zeros(lanes, bool), np.ones(lanes, bool)
    memory, rss = psutil.Process(), []
    for time in range(rows // lanes):
        image = np.full((lanes, 64, 64, 3), time % 251, np.uint8)
        reward = np.full(lanes, time, np.float32)
        step = Step({"image": image}, reward, none, none, none, none, some, some)
        replay.add(step, np.zeros(lanes, np.int64))
        if time % 100 == 99 and replay.can_sample(16):
            for _ in range(5):
                batch = replay.sample(16, 16)
                wanted = (batch.reward % 251).byte().view(16, 16, 1, 1, 1)
                assert (batch.obs["image"] == wanted).all()
            rss.append(memory.memory_info().rss)
    assert replay.rows >= 0.7 * rows
    print(max(rss) - rss[2], replay.bytes)
"""


@pytest.mark.parametrize("retention", ["fifo", "wmar"])
def test_the_tier_on_disk_stays_flat(tmp_path, retention):
    """140 MiB of rows, ten times what they may take in RAM."""
    shared = Path("/dev/shm")
    folder = tmp_path if not shared.is_dir() else shared / f"replay_{tmp_path.name}_{retention}"
    code = textwrap.dedent(CHILD)
    try:
        result = subprocess.run(
            [sys.executable, "-c", code, str(folder), retention],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert result.returncode == 0, result.stderr
        written = sum(path.stat().st_size for path in folder.glob("segment_*"))
    finally:
        for path in folder.glob("*"):
            path.unlink()
    grown, held = map(int, result.stdout.split())
    assert written > 140 * 2**20 * 0.9
    assert held < 2 * 4 * 100 * 12_400
    assert grown < 14 * 2**20
