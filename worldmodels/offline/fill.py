"""A replay that is full before the first step: a data set as the past of one lane."""

from worldmodels.errors import UserError
from worldmodels.offline.dataset import DataSet
from worldmodels.replay import Replay

LANE = 0


def fill(replay: Replay, data: DataSet) -> tuple[int, int]:
    """Add every row to an empty replay, one block at a time; returns rows and ends of episodes.

    Windows run on from one episode to the next, as when they were collected; where rows are missing
    between two blocks, the lane is cut. UserError, naming the place, at the first row that is not
    as it should be.
    """
    rows = episodes = 0
    expected, over = -1, True
    """Id of the row that would continue the block before, and whether that ended an episode."""
    for block in data.read():
        consecutive = block.first >= 0 and block.first == expected
        if rows and not consecutive and not (over and block.is_first[0]):
            replay.end_lane(LANE)
        for step, action in block.steps():
            replay.add(step, action, [LANE])
        rows, episodes = rows + len(block), episodes + int(block.is_last.sum())
        expected, over = block.first + len(block), bool(block.is_last[-1])
    replay.end_lane(LANE)
    return rows, episodes


def check_capacity(data: DataSet, retention: str, capacity: int) -> None:
    """A FIFO would silently forget the beginning of a data set that is larger than itself."""
    if retention == "fifo" and data.rows > capacity:
        raise UserError(
            f"the data set {data.name} has {data.rows} rows, of which a FIFO of {capacity} would "
            f"forget the first; give --replay.capacity {data.rows}, with --replay.storage disk if "
            "that is more than memory holds, or another --replay.retention"
        )


def check_filled(replay: Replay, data: DataSet, rows: int, batch: tuple[int, int]) -> list[str]:
    """Whether the replay holds a batch of B windows of T rows; returns what is to be told."""
    size, length = batch
    if replay.rows < size * length or not replay.can_sample(length):
        raise UserError(
            f"the data set {data.name} gives {replay.rows} rows and {replay.eligible(length)} "
            f"windows of {length} rows, too few for batches of {size} x {length}; lower "
            "--replay.batch-size and --replay.batch-length"
        )
    kept = "" if replay.rows == rows else f", of which the retention keeps {replay.rows}"
    return [f"the replay is filled: {rows} rows{kept}"]
