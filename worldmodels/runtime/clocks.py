"""When something is due: by agent steps, by the train ratio, by the wall clock."""

import time


class Every:
    """Due once whenever `step` has passed another multiple of `period` (0: never).

    With `at_start`, step 0 is such a multiple too.
    """

    def __init__(self, period: int, at_start: bool = False):
        self.period = period
        self.passed = -1 if at_start else 0

    def due(self, step: int) -> bool:
        """Whether a multiple was passed since the last call."""
        if not self.period or step // self.period == self.passed:
            return False
        self.passed = step // self.period
        return True


class Ratio:
    """How many updates are due for `rate` updates per agent step; no burst after a late start."""

    def __init__(self, rate: float):
        self.rate = rate
        self.last = 0
        self.credit = 0.0

    def skip(self, step: int) -> None:
        """Steps up to `step` earn no updates."""
        self.last = step

    def due(self, step: int) -> int:
        """Whole updates earned since the last call; the rest is kept."""
        self.credit += (step - self.last) * self.rate
        self.last = step
        count = int(self.credit)
        self.credit -= count
        return count


class Timer:
    """Due when `minutes` have gone by since the last time."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() - self.last >= self.seconds

    def restart(self) -> None:
        """Count from now."""
        self.last = time.monotonic()
