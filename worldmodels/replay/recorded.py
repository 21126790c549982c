"""Rows that somebody recorded: what a folder, a data set and a replay tell each other.

Letters: N rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from worldmodels.envs.spec import Step


@dataclass(frozen=True)
class Recorded:
    """N consecutive rows of one lane, as they arrived (design law 1)."""

    obs: dict[str, np.ndarray]
    """[N, ...] per key of the spec."""
    prev_action: np.ndarray
    """int64 [N] (-1: none) or float32 [N, A] in [-1, 1] (zeros: none)."""
    reward: np.ndarray
    """float32 [N]."""
    is_first: np.ndarray
    """bool [N], as the flags below."""
    is_last: np.ndarray
    is_terminal: np.ndarray
    obs_valid: np.ndarray
    task: np.ndarray
    """int32 [N]."""
    first: int = -1
    """Id of the first row, where they come from a replay."""

    def __len__(self) -> int:
        return len(self.reward)

    def __getitem__(self, rows: slice) -> "Recorded":
        """A part of them, without a step; views."""
        flat = {name: getattr(self, name)[rows] for name in FLAT}
        first = self.first + (rows.start or 0) if self.first >= 0 else -1
        return Recorded({key: value[rows] for key, value in self.obs.items()}, **flat, first=first)

    def steps(self) -> Iterator[tuple[Step, np.ndarray]]:
        """One row at a time with the action that led there, as `Replay.add` takes them (E = 1)."""
        lost = np.zeros(1, np.bool_)
        for t in range(len(self)):
            row = slice(t, t + 1)
            step = Step(
                obs={key: value[row] for key, value in self.obs.items()},
                reward=self.reward[row],
                is_first=self.is_first[row],
                is_last=self.is_last[row],
                is_terminal=self.is_terminal[row],
                life_lost=lost,
                obs_valid=self.obs_valid[row],
                is_real_step=~self.is_first[row],
                task=self.task[row],
            )
            yield step, self.prev_action[row]

    @staticmethod
    def of(steps: "Sequence[tuple[Step, np.ndarray]]") -> "Recorded":
        """Inverse of `steps`."""
        rows = Step.stack([step for step, _ in steps])
        flat = {name: getattr(rows, name) for name in FLAT if name != "prev_action"}
        return Recorded(rows.obs, np.concatenate([action for _, action in steps]), **flat)

    @staticmethod
    def cat(parts: "Sequence[Recorded]") -> "Recorded":
        """Parts that follow each other as one."""
        flat = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FLAT}
        obs = {key: np.concatenate([part.obs[key] for part in parts]) for key in parts[0].obs}
        return Recorded(obs, **flat, first=parts[0].first)


FLAT = tuple(field.name for field in fields(Recorded) if field.name not in ("obs", "first"))
"""The columns that are no observations."""
