"""Which rows stay: first in, first out."""

from worldmodels.replay.store import Store


class Fifo:
    """Keeps the newest rows, at most `capacity`; whole segments leave, oldest first row first."""

    def __init__(self, capacity: int, max_segments: int):
        self._capacity = capacity
        self._max_segments = max_segments

    def make_room(self, store: Store) -> None:
        """Evict until one more row per lane fits, in rows and in segments."""
        while store.rows + store.num_lanes > self._capacity:
            store.evict_oldest()
        # Lanes that are cut often leave short segments behind: rows alone would not bound memory.
        while len(store.segments) + store.opening > self._max_segments:
            store.evict_oldest()
