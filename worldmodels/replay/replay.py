"""The replay: storage x retention x sampling behind `add`, `sample`, `update`, `save`, `restore`.

Letters: E environments (lanes), B windows of T rows, N rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.spec import EnvSpec, Step
from worldmodels.errors import UserError
from worldmodels.objects import Batch, Carry
from worldmodels.replay.archive import Archive
from worldmodels.replay.buffers import BufferPool
from worldmodels.replay.carry import make_carry, settle_carry
from worldmodels.replay.checkpoint import (
    load_store,
    open_checkpoint,
    read_checkpoint,
    save_store,
    segment_records,
    verify_checkpoint,
    write_checkpoint,
)
from worldmodels.replay.plan import check_memory, make_plan
from worldmodels.replay.retention import Fifo
from worldmodels.replay.rows import RowLayout
from worldmodels.replay.sampling import OnlineQueue, Uniform, eligible
from worldmodels.replay.store import Store


class ReplayOptions(Protocol):
    """The options that a replay reads; `worldmodels.config.ReplayConfig` has them all."""

    @property
    def capacity(self) -> int:
        """Rows kept at most."""
        ...

    @property
    def batch_size(self) -> int:
        """Sequences per batch: the number of streams of carry mode `continue`."""
        ...

    @property
    def batch_length(self) -> int:
        """Rows per sequence: the length of the online queue's windows."""
        ...

    @property
    def carry(self) -> str:
        """`auto`, `stored`, `zero`, `burnin:K` or `continue`."""
        ...

    @property
    def online(self) -> bool:
        """Serve windows that were never seen before all others."""
        ...

    @property
    def segment(self) -> int:
        """Rows per segment, at most."""
        ...


class Replay:
    """Keeps what arrived (design law 1) and serves it as windows of consecutive rows.

    `folder` holds the sealed segments; without one, rows live in RAM and in checkpoints only.
    `reserve` bounds the rows that will ever be added, where that is less than the capacity.
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
    ):
        self._config = config
        self._layout = RowLayout(spec)
        self._carry_mode = settle_carry(config.carry, carry_spec)
        self._carry, self.burnin = make_carry(self._carry_mode, carry_spec, config.batch_size)
        window = config.batch_length + self.burnin
        self._plan = make_plan(config.capacity, config.segment, num_lanes, window, reserve)
        columns, side = self._layout.columns, self._carry.side_columns
        check_memory(self._plan, sum(column.nbytes for column in (columns | side).values()))
        self._archive = None if folder is None else Archive(folder)
        self._store = Store(
            columns, side, num_lanes, self._plan.segment_rows, self._plan.reserved_segments
        )
        self._retention = Fifo(self._plan.capacity, self._plan.max_segments)
        self._uniform = Uniform(seed)
        limit = config.capacity // config.batch_length if config.online else 0
        self._online = OnlineQueue(config.batch_length, window, num_lanes, limit)
        self._pool = BufferPool()
        identity = _identity(config, spec, carry_spec, num_lanes, self._plan.segment_rows)
        self._identity = identity | {"carry": self._carry_mode}

    @property
    def rows(self) -> int:
        """Rows held now, over all lanes."""
        return self._store.rows

    @property
    def bytes(self) -> int:
        """Memory held for rows and their stored states, filled or not."""
        return self._store.allocated * self._store.segment_rows * self._store.row_bytes

    def describe(self) -> str:
        """One line: what is kept, in how much memory, and how it is sampled."""
        plan, store = self._plan, self._store
        place = "in memory only" if self._archive is None else f"saved in {self._archive.folder}"
        order = "fresh windows first, then uniform" if self._config.online else "uniform"
        why = ""
        if self._config.carry == "auto":
            kind = "vectors" if self._carry_mode == "stored" else "no vectors, or large"
            why = f" (auto: the states are {kind})"
        return (
            f"replay: newest {plan.capacity} rows of {store.row_bytes / 1024:.1f} KiB, "
            f"{self.bytes / 2**20:.0f} MiB taken now for {store.allocated} segments of "
            f"{plan.segment_rows} rows, {place}; {order}; carry {self._carry_mode}{why}"
        )

    def eligible(self, length: int) -> int:
        """Number of rows at which a window of `length` rows (and its burn-in) can start."""
        return eligible(self._store, length + self.burnin)

    def can_sample(self, length: int) -> bool:
        """Whether `sample(..., length)` finds a window."""
        return self.eligible(length) > 0

    def add(self, step: Step, prev_action: np.ndarray) -> np.ndarray:
        """One row per lane -> row ids int64 [E].

        prev_action: the actions that led here, int64 [E] (-1: none) or float32 [E, A] (zeros:
        none). If a full segment cannot be written, the rows are kept and a UserError is raised;
        writing is tried again with the next row.
        """
        values = self._layout.pack(step, prev_action)
        if len(values["record"]) != self._store.num_lanes:
            raise ValueError(
                f"a step of {len(values['record'])} environments was added to a replay of "
                f"{self._store.num_lanes} lanes"
            )
        self._retention.make_room(self._store)
        ids = self._store.append(values)
        self._online.added(ids)
        self._seal()
        return ids

    def end_lane(self, lane: int) -> None:
        """Cut a lane whose environment could not be continued: no window crosses this moment."""
        self._store.cut(lane)
        self._online.cut(lane)
        self._seal()

    def sample(
        self, batch: int, length: int, purpose: Literal["learn", "imagine"] = "learn"
    ) -> Batch:
        """B windows of T = length rows (plus burn-in), on the CPU, in memory of their own.

        Learning is served the online queue first, and continues the streams of carry mode
        `continue`; imagination draws uniformly and leaves both alone.
        """
        rows = length + self.burnin
        learn = purpose == "learn"

        def draw(count: int) -> list[int]:
            fresh = self._online.take(self._store, count, rows) if learn else []
            left = count - len(fresh)
            return fresh + (self._uniform.draw(self._store, left, rows) if left else [])

        starts, carry, known = self._carry.begin(self._store, draw, batch, rows, learn)
        fields = self._layout.unpack(self._store.read(starts, rows, self._pool))
        index = torch.from_numpy(np.add.outer(np.array(starts, np.int64), np.arange(rows)))
        reset = fields["is_first"].clone()
        reset.numpy()[:, 0] |= ~known
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
        self._seal()
        store, rows = save_store(self._store)
        body = {
            "identity": self._identity,
            "store": store,
            "online": self._online.save(),
            "generator": self._uniform.generator.bit_generator.state,
        }
        arrays = {"rows": rows, "carry": self._carry.save(self._store)}
        return {"rows": self.rows, **write_checkpoint(directory, body, arrays)}

    def restore(self, directory: Path) -> None:
        """Become what was saved; rows added since are gone. Changes nothing where it refuses."""
        body = read_checkpoint(directory)
        for name, mine in self._identity.items():
            theirs = body["identity"].get(name)
            if theirs != mine:
                raise UserError(
                    f"the replay of {directory} was written with {name} {theirs}, this run has "
                    f"{mine}; resume with the same setting or start a new run"
                )
        verify_checkpoint(directory, body, self._archive)
        with open_checkpoint(directory, body, "rows") as rows:
            load_store(self._store, body["store"], rows, self._archive)
        with open_checkpoint(directory, body, "carry") as arrays:
            self._carry.load(self._store, arrays)
        self._online.load(body["online"])
        self._uniform.generator.bit_generator.state = body["generator"]

    def collect_garbage(self, directories: Sequence[Path]) -> list[Path]:
        """Delete the segment files that neither this replay nor these checkpoints need.

        Deletes nothing, and raises CorruptReplay, where a checkpoint cannot say what it needs.
        """
        if self._archive is None:
            return []
        bodies = [read_checkpoint(directory) for directory in directories]
        needed = {record.name for body in bodies for record in segment_records(body)}
        needed |= {s.file.name for s in self._store.segments.values() if s.file is not None}
        return self._archive.keep_only(needed)

    def _seal(self) -> None:
        if self._archive is not None:
            self._archive.seal(self._store)


def _identity(
    config: ReplayOptions,
    spec: EnvSpec,
    carry_spec: Mapping[str, LeafSpec] | None,
    num_lanes: int,
    segment_rows: int,
) -> dict[str, Any]:
    """What a saved replay must agree on with the run that restores it, as JSON values."""
    leaves = {
        name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in (carry_spec or {}).items()
    }
    return {
        "format": 1,
        "environment": spec.name,
        "observations": {key: [list(obs.shape), obs.kind] for key, obs in spec.obs.items()},
        "actions": [spec.action.kind, spec.action.size],
        "lanes": num_lanes,
        "capacity": config.capacity,
        "segments of rows": segment_rows,
        "model state": leaves,
        "sequences per batch": config.batch_size,
        "rows per sequence": config.batch_length,
        "online": config.online,
    }
