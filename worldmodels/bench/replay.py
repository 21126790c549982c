"""`worldmodels bench replay`: batches per second against numpy copying the same bytes.

Letters: B sequences in a batch, T rows of time.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.objects import Carry
from worldmodels.replay import Replay

LANES = 4
CARRY = {
    "h": LeafSpec((512,)),
    "z": LeafSpec((32, 32)),
}
"""The smallest recurrent model's state; 2 KiB a row once packed."""
WARM_UP = 5


@dataclass(frozen=True)
class Options:
    """A replay of image rows."""

    capacity: int
    batch_size: int
    batch_length: int
    carry: str
    online: bool = False
    segment: int = 1024
    retention: str = "fifo"
    coin: str = "batch"
    storage: str = "ram"
    long_term_share: float = 0.5
    sampling: str = "uniform"


@dataclass(frozen=True)
class Case:
    """One way of keeping rows."""

    storage: str = "ram"
    retention: str = "fifo"
    carry: str = "zero"
    coin: str = "batch"


CASES = (
    Case(),
    Case(carry="stored"),
    Case(retention="wmar"),
    Case(retention="wmar", coin="row"),
    Case(storage="disk"),
    Case(storage="disk", retention="wmar"),
    Case(storage="device"),
)


def bench_replay(
    batch: int = 16,
    lengths: Sequence[int] = (64, 512),
    shape: tuple[int, ...] = (64, 64, 3),
    rows: int = 40_000,
    seconds: float = 4.0,
) -> list[dict[str, Any]]:
    """Sampling from a full replay of every kind, and adding to it; one dict a case and length.

    `ratio` is the median, over alternating pairs, of numpy's time over the replay's: numpy copies
    B slices of T rows out of one array of as many rows into an array that it already has. Files
    are in the system's temporary folder and in its page cache. Tier `device` is a GPU where there
    is one: a batch ends there, which numpy's copy does not.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = []
    for case, length in product(CASES, lengths):
        options = Options(rows, batch, length, **asdict(case), segment=max(512, 2 * length))
        with TemporaryDirectory() as folder:
            on_disk = Path(folder) if case.storage == "disk" else None
            replay, added = _filled(options, shape, on_disk, device)
            with replay:
                found = _race(replay, batch, length, shape, seconds)
        sizes = {"batch": batch, "length": length, "shape": list(shape), "rows": replay.rows}
        memory = {"add_rows_per_second": added, "mebibytes": replay.bytes / 2**20}
        results.append({**asdict(case), **sizes, **found, **memory})
    return results


def _filled(
    options: Options, shape: tuple[int, ...], folder: Path | None, device: torch.device
) -> tuple[Replay, float]:
    """A full replay of random images, and the rows per second at which it was filled."""
    spec = EnvSpec("bench", {"image": ObsSpec(shape, "image")}, ActionSpec("discrete", 6))
    replay = Replay(options, spec, CARRY, LANES, folder, seed=0, device=device)
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (LANES, *shape), np.uint8)
    no, yes = np.zeros(LANES, np.bool_), np.ones(LANES, np.bool_)
    reward = np.zeros(LANES, np.float32)
    step = Step({"image": image}, reward, no, no, no, no, yes, yes)
    action = random.integers(0, 6, LANES)
    carry = Carry({"h": torch.zeros(LANES, 512), "z": torch.eye(32).expand(LANES, 32, 32)})
    began = perf_counter()
    ids = [replay.add(step, action) for _ in range(options.capacity // LANES)]
    elapsed = perf_counter() - began
    for rows in ids:
        replay.update(rows, carry)
    return replay, len(ids) * LANES / elapsed


def _race(
    replay: Replay, batch: int, length: int, shape: tuple[int, ...], seconds: float
) -> dict[str, float]:
    """Time `sample` and the plain copy in turn, so that both see the same machine."""
    arena = np.zeros((replay.rows, *shape), np.uint8)
    arena[...] = 1
    target = np.empty((batch, length, *shape), np.uint8)
    random = np.random.default_rng(0)

    def copy() -> None:
        starts = random.integers(0, len(arena) - length, batch)
        for into, start in zip(target, starts, strict=True):
            into[...] = arena[start : start + length]

    ours, numpys = [], []
    deadline = perf_counter() + seconds
    while perf_counter() < deadline or len(ours) < 2 * WARM_UP:
        began = perf_counter()
        replay.sample(batch, length)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        between = perf_counter()
        copy()
        ours.append(between - began)
        numpys.append(perf_counter() - between)
    ours, numpys = ours[WARM_UP:], numpys[WARM_UP:]
    rate = 1 / median(ours)
    return {
        "batches_per_second": rate,
        "rows_per_second": rate * batch * length,
        "numpy_batches_per_second": 1 / median(numpys),
        "ratio": median(theirs / mine for theirs, mine in zip(numpys, ours, strict=True)),
    }
