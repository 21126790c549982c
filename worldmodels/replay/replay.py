"""The replay: storage x retention x sampling behind `add`, `sample`, `update`, `save`, `restore`.

Letters: E environments (lanes), B windows of T rows, N rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.spec import EnvSpec, Step
from worldmodels.errors import UserError
from worldmodels.objects import Batch, Carry
from worldmodels.replay.carry import make_carry, settle_carry
from worldmodels.replay.checkpoint import (
    Restored,
    check_identity,
    load_store,
    open_checkpoint,
    read_checkpoint,
    save_store,
    segment_records,
    verify_checkpoint,
    write_checkpoint,
)
from worldmodels.replay.files import Prefixed
from worldmodels.replay.keeper import Keeper, Recovered
from worldmodels.replay.options import (
    ReplayOptions,
    describe,
    identity,
    make_retention,
    make_sampler,
    make_storage,
)
from worldmodels.replay.plan import reserved_segments
from worldmodels.replay.rows import RowLayout
from worldmodels.replay.sampling import OnlineQueue, Purpose, toss
from worldmodels.replay.storage import row_bytes
from worldmodels.replay.store import Store


class Replay:
    """Keeps what arrived (design law 1) and serves it as windows of consecutive rows.

    `folder` holds the segments on disk; without one, rows live in memory and in checkpoints only.
    `reserve` bounds the rows that will ever be added, where that is less than the capacity.
    `device` is where storage `device` keeps its rows.
    """

    def __init__(
        self,
        config: ReplayOptions,
        spec: EnvSpec,
        carry_spec: Mapping[str, LeafSpec] | None,
        num_lanes: int,
        folder: Path | None,
        seed: int,
        reserve: int | None = None,
        device: torch.device | None = None,
    ):
        self._config = config
        self._layout = RowLayout(spec)
        self._carry_mode = settle_carry(config.carry, carry_spec)
        self._make_carry = partial(make_carry, self._carry_mode, carry_spec, config.batch_size)
        self._carry, self.burnin = self._make_carry()
        window = config.batch_length + self.burnin
        retention, segment_rows = make_retention(config, num_lanes, window, seed)
        columns, side = self._layout.columns, self._carry.side
        self._row_bytes = row_bytes(columns, side)
        slots = reserved_segments(retention.max_segments, segment_rows, num_lanes, reserve)
        most = retention.max_segments
        storage = make_storage(
            config.storage, columns, side, segment_rows, slots, most, folder, device
        )
        pools = [pool for pool, _ in retention.pools.values()]
        if self._carry_mode == "continue" and not (len(pools) == 1 and pools[0].stitched):
            raise UserError(
                "--replay.carry=continue reads on from lane to lane, which "
                f"--replay.retention={config.retention} does not keep whole; use stored, zero or "
                "burnin:8"
            )
        self._store = Store(storage, num_lanes, segment_rows)
        self._retention = retention
        self._keeper = Keeper(self._layout, self._store, retention, folder, seed)
        self._samplers = {
            name: make_sampler(config.sampling, pool, self._store, retention.max_segments)
            for name, (pool, _) in retention.pools.items()
        }
        limit = config.capacity // config.batch_length if config.online else 0
        self._make_online = partial(OnlineQueue, config.batch_length, window, num_lanes, limit)
        self._online = self._make_online()
        self._random = np.random.default_rng(seed)
        known = identity(config, self._layout, carry_spec, num_lanes, segment_rows)
        self._identity = known | {"carry": self._carry_mode}

    @property
    def rows(self) -> int:
        """Rows held now, over all lanes."""
        return self._store.rows

    @property
    def bytes(self) -> int:
        """Memory held for rows and their stored states, filled or not."""
        return self._store.storage.bytes

    def describe(self) -> str:
        """One line: what is kept, in how much memory, and how it is drawn."""
        folder = self._keeper.archive and self._keeper.archive.folder
        carry = self._carry_mode
        return describe(self._config, self._retention, self._store, self._row_bytes, carry, folder)

    def eligible(self, length: int) -> int:
        """Number of starts of windows of `length` rows (and their burn-in), over all pools."""
        rows = length + self.burnin
        return sum(pool.eligible(rows) for pool, _ in self._retention.pools.values())

    def can_sample(self, length: int) -> bool:
        """Whether `sample(..., length)` finds a window."""
        return self.eligible(length) > 0

    def add(
        self, step: Step, prev_action: np.ndarray, lanes: Sequence[int] | None = None
    ) -> np.ndarray:
        """One row per lane -> row ids int64 [E].

        prev_action: the actions that led here, int64 [E] (-1: none) or float32 [E, A] (zeros:
        none). `lanes`: those that get a row, where not all do; it is a recorded past, not fresh to
        the online queue. If a file cannot be written, the rows are kept (but for the first of all,
        before which nothing is begun) and a UserError is raised; the next row tries again.
        """
        values = self._layout.pack(step, prev_action)
        into = range(self._store.num_lanes) if lanes is None else lanes
        if (count := len(values["record"])) != len(into):
            raise ValueError(f"a step of {count} was added to a replay of {len(into)} lanes")
        ids = self._keeper.append(values, into)
        if lanes is None:
            self._online.added(ids)
        self._keeper.write(values)
        return ids

    def end_lane(self, lane: int) -> None:
        """Cut a lane whose environment could not be continued: no window crosses this moment."""
        self._keeper.cut(lane)

    def sample(self, batch: int, length: int, purpose: Purpose = "learn") -> Batch:
        """B windows of T = length rows (plus burn-in), in memory of their own.

        On the CPU, or where storage `device` keeps its rows; `index` is always on the CPU.
        Learning is served the online queue first, and continues the streams of carry mode
        `continue`; imagination leaves both alone.
        """
        rows = length + self.burnin
        learn = purpose == "learn"
        drawn: list[int] = []

        def draw(count: int) -> list[int]:
            fresh = self._online.take(self._store, count, rows) if learn else []
            left = count - len(fresh)
            starts = self._draw(left, rows, purpose, batch) if left else []
            drawn.extend(starts)
            return fresh + starts

        starts, carry, known = self._carry.begin(self._store, draw, batch, rows, learn)
        others = [] if starts == drawn else list((Counter(starts) - Counter(drawn)).elements())
        for sampler in self._samplers.values():
            sampler.served(others, purpose, batch)
        fields = self._layout.unpack(self._store.read(starts, rows))
        index = torch.from_numpy(np.add.outer(np.array(starts, np.int64), np.arange(rows)))
        reset = fields["is_first"].clone()
        reset[:, 0] |= ~known.to(reset.device)
        return Batch(**fields, index=index, reset=reset, carry=carry, burnin=self.burnin)

    def update(self, index: Tensor | np.ndarray, carry: Carry) -> None:
        """Note the model states after rows index int64 [N]; rows that are gone are left out."""
        ids = index.cpu().numpy() if isinstance(index, Tensor) else index
        if ids.shape != (carry.batch_size,):
            raise ValueError(
                f"replay.update got row ids of shape {ids.shape} for {carry.batch_size} states"
            )
        self._carry.update(self._store, ids, carry)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write into a checkpoint's folder all that no segment file holds; returns what it wrote.

        Afterwards `restore` gives batches bit-identical to those sampled from here on.
        """
        self._keeper.seal()
        store, rows = save_store(self._store)
        body = {
            "identity": self._identity,
            "store": store,
            "online": self._online.save(),
            "generator": self._random.bit_generator.state,
        }
        samplers = {
            f"{name}/{key}": value
            for name, sampler in self._samplers.items()
            for key, value in sampler.save().items()
        }
        arrays = {
            "rows": rows,
            "carry": self._carry.save(self._store),
            "retention": self._retention.save(),
            "sampling": samplers,
        }
        return {"rows": self.rows, **write_checkpoint(directory, body, arrays)}

    def restore(self, directory: Path, drop_damaged: bool = False) -> Restored:
        """Become what was saved; rows added since are gone, and counted in what is returned.

        A damaged or missing segment file raises CorruptReplay; with `drop_damaged` its rows leave
        as if they had been evicted, unless that is so of all files. Changes nothing where it
        refuses.
        """
        body, archive = read_checkpoint(directory), self._keeper.archive
        check_identity(directory, body, self._identity)
        damaged = verify_checkpoint(directory, body, archive, drop_damaged)
        self._retention.load({}, {})
        with open_checkpoint(directory, body, "rows") as rows:
            load_store(self._store, body["store"], rows, archive, damaged)
        with open_checkpoint(directory, body, "carry") as arrays:
            self._carry.load(self._store, arrays)
        with open_checkpoint(directory, body, "retention") as arrays:
            self._retention.load(arrays, self._store.segments)
        with open_checkpoint(directory, body, "sampling") as arrays:
            for name, sampler in self._samplers.items():
                sampler.load(Prefixed(arrays, f"{name}/"))
        self._online.load(body["online"])
        self._random.bit_generator.state = body["generator"]
        return Restored.after(self._keeper.restored(), self._keeper.lose(damaged))

    def recover(self) -> Recovered:
        """Take up what a process that was killed left in the folder, checkpoint or not.

        All lanes are cut; model states and the samplers' memory begin anew.
        """
        self._forget_windows()
        return self._keeper.recover()

    def clear(self) -> None:
        """Forget all rows, in memory and in the folder; files stay until garbage is collected."""
        self._forget_windows()
        self._keeper.clear()

    def collect_garbage(self, directories: Sequence[Path]) -> list[Path]:
        """Delete the segment files that neither this replay nor these checkpoints need.

        Deletes nothing, and raises CorruptReplay, where a checkpoint cannot say what it needs.
        """
        bodies = [read_checkpoint(directory) for directory in directories]
        needed = {record.name for body in bodies for record in segment_records(body)}
        return self._keeper.collect_garbage(needed)

    def close(self) -> None:
        """Let go of every file; rows that were added are in the folder, as after a kill."""
        self._keeper.close()

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _forget_windows(self) -> None:
        """Rows get their ids anew: no window that waits, and no stream, means anything now."""
        self._online = self._make_online()
        self._carry, _ = self._make_carry()

    def _draw(self, count: int, rows: int, purpose: Purpose, batch: int) -> list[int]:
        """Starts from the pools that have a window, by their shares: one coin a batch or a row."""
        shares = {
            name: share
            for name, (pool, share) in self._retention.pools.items()
            if pool.eligible(rows)
        }
        if not shares:
            raise ValueError(
                f"replay holds {self.rows} rows but no {rows} consecutive ones; collect more "
                "before sampling, or sample shorter windows"
            )
        parts = toss(count, list(shares.values()), self._config.coin, self._random)
        drawn: list[int] = []
        for name, part in zip(shares, parts, strict=True):
            sampler = self._samplers[name]
            drawn += sampler.draw(part, rows, purpose, self._random, batch) if part else []
        return drawn
