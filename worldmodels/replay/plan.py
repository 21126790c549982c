"""How a capacity in rows becomes segments in memory, decided and checked before the run starts."""

import os
from math import ceil

from worldmodels.errors import UserError

SEGMENTS_PER_LANE = 4
"""Evicting one segment should forget a small part of a lane, so a lane fills at least these."""


def segment_size(capacity: int, segment: int, num_lanes: int, window: int, share: float) -> int:
    """Rows per segment: at most `segment`, and few enough for the smallest part of the capacity.

    `share`: of the capacity, that the smallest part of the retention gets.
    """
    least = 2 * num_lanes * max(window, SEGMENTS_PER_LANE)
    part = round(capacity * share)
    if part < least:
        raise UserError(
            f"--replay.capacity={capacity} is too small for windows of {window} rows from each of "
            f"{num_lanes} environments; raise it to at least {ceil(least / share)}"
        )
    return min(segment, part // (SEGMENTS_PER_LANE * num_lanes))


def reserved_segments(
    max_segments: int, segment_rows: int, num_lanes: int, reserve: int | None
) -> int:
    """Segments whose memory is taken at the start, where `reserve` rows will ever be added."""
    if reserve is None:
        return max_segments
    # All lanes advance together, so each needs the same number of segments.
    return min(max_segments, num_lanes * ceil(reserve / (num_lanes * segment_rows)))


def check_memory(needed: int, what: str) -> None:
    """Refuse what this machine's memory can never hold."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > machine:
        raise UserError(
            f"the replay needs {needed / 2**30:.1f} GiB for {what}, the machine has "
            f"{machine / 2**30:.1f} GiB; lower --replay.capacity or use --replay.storage=disk"
        )
