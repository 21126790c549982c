"""What a replay is built from: its options, and the parts that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from worldmodels.backbones.base import LeafSpec
from worldmodels.errors import UserError
from worldmodels.parts import parse_sampling, retention_class, sampler_class
from worldmodels.replay.disk import Disk
from worldmodels.replay.gpu import Gpu
from worldmodels.replay.plan import check_memory, segment_size
from worldmodels.replay.pool import Pool
from worldmodels.replay.retention import Retention, Room
from worldmodels.replay.rows import Column, RowLayout
from worldmodels.replay.sampling import Mix, Sampler
from worldmodels.replay.storage import Ram, Storage, row_bytes
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
    def retention(self) -> str:
        """What stays: a name of `worldmodels.parts.RETENTIONS` or a path to a class."""
        ...

    @property
    def long_term_share(self) -> float:
        """Share of capacity and draws of the long-term part, where a retention has two."""
        ...

    @property
    def sampling(self) -> str:
        """How windows are drawn: a sampler, or several with their shares."""
        ...

    @property
    def coin(self) -> str:
        """`batch`: all windows of a batch come from one pool; `row`: each from its own."""
        ...

    @property
    def storage(self) -> str:
        """`ram`, `disk` or `device`."""
        ...

    @property
    def online(self) -> bool:
        """Serve windows that were never seen before all others."""
        ...

    @property
    def segment(self) -> int:
        """Rows per segment, at most."""
        ...


def make_retention(
    options: ReplayOptions, num_lanes: int, window: int, seed: int
) -> tuple[Retention, int]:
    """The retention, and the rows per segment that suit it."""
    kind = retention_class(options.retention)
    share = options.long_term_share
    smallest = min(share, 1 - share) if getattr(kind, "TWO_PARTS", False) else 1.0
    if smallest <= 0:
        raise UserError(
            f"--replay.long-term-share={share} must lie between 0 and 1 for {options.retention}; "
            "at the ends use --replay.retention=fifo or reservoir"
        )
    rows = segment_size(options.capacity, options.segment, num_lanes, window, smallest)
    room = Room(options.capacity, rows, window, num_lanes, seed, share)
    return _built("retention", options.retention, kind, room), rows


def make_storage(
    name: str,
    columns: Mapping[str, Column],
    side: Column | None,
    segment_rows: int,
    slots: int,
    most: int,
    folder: Path | None,
    device: torch.device | None,
) -> Storage:
    """The tier `name`, with memory for `slots` segments now and `most` ever."""
    size = row_bytes(columns, side)
    if name == "disk":
        if folder is None:
            raise UserError("--replay.storage=disk needs a folder, and this replay has none")
        return Disk(columns, side, segment_rows, folder)
    if name == "device":
        device = device or torch.device("cpu")
        # The arena cannot grow, and short episodes bring up to two rows a step.
        slots = min(most, 2 * slots)
        if device.type == "cpu":
            check_memory(slots * segment_rows * size, f"{slots * segment_rows} rows")
        return Gpu(columns, side, segment_rows, slots, device)
    what = f"{slots * segment_rows} rows of {size} bytes"
    check_memory(slots * segment_rows * size, what)
    return Ram(columns, side, segment_rows, slots)


def make_sampler(text: str, pool: Pool, store: Store, max_segments: int) -> Sampler:
    """The sampler of one pool."""
    parts = [
        (_built("sampler", name, sampler_class(name), pool, store, max_segments), share)
        for name, share in parse_sampling(text).items()
    ]
    return parts[0][0] if len(parts) == 1 else Mix(parts)


def describe(
    options: ReplayOptions,
    retention: Retention,
    store: Store,
    row_bytes: int,
    carry: str,
    folder: Path | None,
) -> str:
    """What a replay of these keeps, in how much memory, and how it is drawn."""
    storage = store.storage
    limit = retention.max_segments * store.segment_rows * row_bytes / 2**20
    held = {
        "ram": f"{storage.bytes / 2**20:.0f} MiB of RAM taken now, {limit:.0f} MiB at most",
        "device": f"{storage.bytes / 2**20:.0f} MiB on {storage.device}",
        "disk": f"on disk, {limit:.0f} MiB at most and what checkpoints refer to",
    }[options.storage]
    place = f"saved in {folder}" if folder else "in memory only"
    order = "fresh windows first, then " if options.online else ""
    coin = f", one pool a {options.coin}" if len(retention.pools) > 1 else ""
    why = ""
    if options.carry == "auto":
        kind = "vectors" if carry == "stored" else "no vectors, or large"
        why = f" (auto: the states are {kind})"
    text = (
        f"replay: {retention.describe()}, {row_bytes / 1024:.1f} KiB a row in segments of "
        f"{store.segment_rows}, {held}, {place}; drawn {order}{options.sampling}{coin}; carry "
        f"{carry}{why}"
    )
    return "; ".join([text, *_without_effect(options, len(retention.pools))])


def _without_effect(options: ReplayOptions, pools: int) -> list[str]:
    """A sentence for every option that was changed from its default and decides nothing."""
    two_parts = getattr(retention_class(options.retention), "TWO_PARTS", False)
    ignored = {"coin": pools == 1, "long_term_share": not two_parts}
    return [
        f"replay.{name} {getattr(options, name)} has no effect with retention {options.retention}"
        for name, idle in ignored.items()
        if idle and getattr(options, name) != getattr(type(options), name)
    ]


def _built(what: str, name: str, kind: Any, *arguments: Any) -> Any:
    """`kind(*arguments)`; a plug-in that cannot be built is the user's to mend."""
    try:
        return kind(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the replay {what} '{name}' cannot be built ({type(error).__name__}: {error}); "
            f"docs/replay.md shows what a {what} is"
        ) from error


def identity(
    options: ReplayOptions,
    layout: RowLayout,
    carry_spec: Mapping[str, LeafSpec] | None,
    num_lanes: int,
    segment_rows: int,
) -> dict[str, Any]:
    """What a saved replay must agree on with the run that restores it, as JSON values."""
    leaves = {
        name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in (carry_spec or {}).items()
    }
    return {
        "format": 2,
        **layout.as_json(),
        "lanes": num_lanes,
        "capacity": options.capacity,
        "segments of rows": segment_rows,
        "retention": options.retention,
        "long-term share": options.long_term_share,
        "sampling": options.sampling,
        "model state": leaves,
        "sequences per batch": options.batch_size,
        "rows per sequence": options.batch_length,
        "online": options.online,
    }
