"""Ten million rows on disk: does memory stay flat, and do they come back? Result: README.md."""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from worldmodels.config import ReplayConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.replay import Replay
from worldmodels.runtime.rundir import commit

HERE = Path(__file__).parent
LANES = 64
SPEC = EnvSpec("scale", {"planes": ObsSpec((10, 5, 1), "planes")}, ActionSpec("discrete", 3))
OPTIONS = ReplayConfig(
    capacity=10_000_000, storage="disk", carry="zero", online=False, batch_length=64
)


def resident() -> float:
    """MiB of memory that this process holds, mapped files included."""
    return psutil.Process().memory_info().rss / 2**20


def fill(replay: Replay, rows: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """Add rows, draw batches in between; returns memory and speed at every tenth."""
    no, yes = np.zeros(LANES, np.bool_), np.ones(LANES, np.bool_)
    told = []
    for tenth in range(10):
        began = time.perf_counter()
        planes = rng.random((LANES, 10, 5, 1)) < 0.1
        step = Step({"planes": planes}, rng.random(LANES, np.float32), no, no, no, no, yes, yes)
        actions = rng.integers(0, 3, LANES)
        for _ in range(rows // LANES // 10):
            replay.add(step, actions)
        added = time.perf_counter()
        for _ in range(200):
            replay.sample(16, 64)
        sampled = time.perf_counter()
        told.append(
            {
                "rows": replay.rows,
                "resident_mib": round(resident(), 1),
                "rows_per_second": round(rows / 10 / (added - began)),
                "batches_per_second": round(200 / (sampled - added)),
            }
        )
        print(tenth + 1, told[-1], flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=12_000_000)
    parser.add_argument("--retention", default="wmar")
    args = parser.parse_args()
    options = replace(OPTIONS, retention=args.retention)
    with tempfile.TemporaryDirectory() as folder:
        rows, checkpoint = Path(folder, "rows"), Path(folder, "checkpoint")
        checkpoint.mkdir()
        replay = Replay(options, SPEC, None, LANES, rows, seed=0)
        told = {"commit": commit(), "retention": args.retention, "before_mib": resident()}
        told["filling"] = fill(replay, args.rows, np.random.default_rng(0))
        began = time.perf_counter()
        replay.save(checkpoint)
        told["save_seconds"] = time.perf_counter() - began
        told["disk_mib"] = sum(os.path.getsize(path) for path in rows.iterdir()) / 2**20
        expected = [replay.sample(16, 64).index.tolist() for _ in range(10)]
        again = Replay(options, SPEC, None, LANES, rows, seed=1)
        began = time.perf_counter()
        again.restore(checkpoint)
        told["restore_seconds"] = time.perf_counter() - began
        assert [again.sample(16, 64).index.tolist() for _ in range(10)] == expected
        told["after_restore_mib"] = resident()
    (HERE / f"{args.retention}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
