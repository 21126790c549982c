"""What one stored row holds, and how columns of rows become a batch (design law 1).

Letters: E environments (lanes), B windows of T rows, A action size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from worldmodels.envs.spec import EnvSpec, Step
from worldmodels.errors import UserError

FLAGS = ("is_first", "is_last", "is_terminal", "obs_valid")


@dataclass(frozen=True)
class Column:
    """Shape and type of one row's entry."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * self.dtype.itemsize


class RowLayout:
    """The columns of a row: `obs.<key>` per observation, and one `record` of all small fields.

    A single record makes adding and copying a row cheap: one write instead of six. It is stored
    as opaque bytes, which numpy copies whole, and not field by field.
    """

    def __init__(self, spec: EnvSpec):
        self._spec = spec
        action = spec.action
        self._discrete = action.kind == "discrete"
        arrived = (np.int32, ()) if self._discrete else (np.float32, (action.size,))
        flags = (np.bool_, (len(FLAGS),))
        self._record = np.dtype(
            [("prev_action", *arrived), ("reward", np.float32), ("flags", *flags)]
        )
        self.columns = {f"obs.{key}": Column(obs.shape, obs.dtype) for key, obs in spec.obs.items()}
        self._opaque = np.dtype((np.void, self._record.itemsize))
        self.columns["record"] = Column((), self._opaque)
        # Row -1 of this table is all zeros, which is what action -1 ("none") must become.
        self._one_hot = np.eye(action.size + 1, action.size, dtype=np.float32)

    def pack(self, step: Step, prev_action: np.ndarray) -> dict[str, np.ndarray]:
        """A step and the actions that led to it -> [E, ...] per column."""
        self._check(step, prev_action)
        record = np.empty(len(step.reward), self._record)
        record["prev_action"] = prev_action
        record["reward"] = step.reward
        for place, flag in enumerate(FLAGS):
            record["flags"][:, place] = getattr(step, flag)
        obs = {f"obs.{key}": step.obs[key] for key in self._spec.obs}
        return {"record": record.view(self._opaque), **obs}

    def unpack(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """[B, T, ...] per column -> the fields of a `Batch` that come from rows."""
        record = columns["record"].view(self._record)
        flags = torch.from_numpy(record["flags"].transpose(2, 0, 1).copy())  # [4, B, T]
        reward = torch.from_numpy(record["reward"].copy())
        arrived = record["prev_action"]
        prev_action = self._one_hot[arrived] if self._discrete else arrived.copy()
        obs = {key: torch.from_numpy(columns[f"obs.{key}"]) for key in self._spec.obs}
        fields = {"obs": obs, "prev_action": torch.from_numpy(prev_action), "reward": reward}
        return {**fields, **dict(zip(FLAGS, flags, strict=True))}

    def _check(self, step: Step, prev_action: np.ndarray) -> None:
        lanes = len(step.reward)
        for key, obs in self._spec.obs.items():
            found = step.obs[key]
            if found.shape != (lanes, *obs.shape) or found.dtype != obs.dtype:
                raise UserError(
                    f"observation '{key}' of {self._spec.name} arrived as {found.dtype} "
                    f"{found.shape}, but its spec says {obs.dtype} {(lanes, *obs.shape)}; "
                    "check_env names such faults"
                )
        size = self._spec.action.size
        shape = (lanes,) if self._discrete else (lanes, size)
        if prev_action.shape != shape:
            raise ValueError(f"prev_action has shape {prev_action.shape}, replay needs {shape}")
        if self._discrete and (prev_action.min() < -1 or prev_action.max() >= size):
            raise ValueError(f"prev_action {prev_action} is not within -1..{size - 1}")
