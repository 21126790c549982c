"""How a capacity in rows becomes segments in memory, decided and checked before the run starts."""

import os
from dataclasses import dataclass
from math import ceil

from worldmodels.errors import UserError

SEGMENTS_PER_LANE = 4
"""Evicting one segment should forget a small part of a lane, so a lane fills at least these."""


@dataclass(frozen=True)
class Plan:
    """Numbers of rows and segments that bound the memory."""

    capacity: int
    """Rows kept at most, over all lanes."""
    segment_rows: int
    max_segments: int
    """`capacity` rows in full segments, and an open one per lane."""
    reserved_segments: int
    """Segments whose memory is taken at the start."""


def make_plan(
    capacity: int, segment: int, num_lanes: int, window: int, reserve: int | None
) -> Plan:
    """Lay `capacity` rows out for windows of `window` rows; `reserve` rows will ever be added."""
    least = 2 * num_lanes * max(window, SEGMENTS_PER_LANE)
    if capacity < least:
        raise UserError(
            f"--replay.capacity={capacity} is too small for windows of {window} rows from each of "
            f"{num_lanes} environments; raise it to at least {least}"
        )
    segment_rows = min(segment, capacity // (SEGMENTS_PER_LANE * num_lanes))
    max_segments = capacity // segment_rows + num_lanes
    reserved = max_segments
    if reserve is not None:
        # All lanes advance together, so each needs the same number of segments.
        reserved = min(max_segments, num_lanes * ceil(reserve / (num_lanes * segment_rows)))
    return Plan(capacity, segment_rows, max_segments, reserved)


def check_memory(plan: Plan, row_bytes: int) -> None:
    """Refuse a plan that this machine's memory can never hold."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = plan.reserved_segments * plan.segment_rows * row_bytes
    if needed > machine:
        raise UserError(
            f"the replay needs {needed / 2**30:.1f} GiB for {plan.capacity} rows of {row_bytes} "
            f"bytes, the machine has {machine / 2**30:.1f} GiB; lower --replay.capacity"
        )
