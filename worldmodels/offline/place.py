"""Where in a data set something is wrong, as a user looks for it."""

from dataclasses import dataclass
from pathlib import Path

from worldmodels.errors import UserError


@dataclass(frozen=True)
class Place:
    """An episode of a file; rows count from 0, the first observation, as in the replay."""

    file: Path
    episode: int

    def fault(self, row: int, what: str) -> UserError:
        """The sentence about a row."""
        return UserError(
            f"{self.file}, episode {self.episode}, row {row}: {what}; nothing was trained: mend "
            "the data set, or leave that episode out"
        )
