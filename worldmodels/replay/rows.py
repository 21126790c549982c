"""What one stored row holds, and how columns of rows become a batch (design law 1).

Letters: E environments (lanes), B windows of T rows, A action size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
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


class Rollout:
    """The rows of a segment as a retention sees them: numpy, leading axis rows, read when asked."""

    def __init__(self, record: np.dtype, columns: Callable[[], Mapping[str, np.ndarray]]):
        self._record, self._columns = record, columns

    def _field(self, name: str) -> np.ndarray:
        return self._columns()["record"].view(self._record)[name]

    @property
    def reward(self) -> np.ndarray:
        """float32 [rows], received on arriving at each row."""
        return self._field("reward")

    @property
    def prev_action(self) -> np.ndarray:
        """int32 [rows] (-1: none) or float32 [rows, A] (zeros: none)."""
        return self._field("prev_action")

    @property
    def task(self) -> np.ndarray:
        """int32 [rows]: which task of a stream; for reports, never for learning."""
        return self._field("task")

    def flag(self, name: str) -> np.ndarray:
        """bool [rows]: one of `FLAGS`."""
        return self._field("flags")[:, FLAGS.index(name)]

    @property
    def obs(self) -> dict[str, np.ndarray]:
        """[rows, ...] per observation key."""
        columns = self._columns()
        prefix = "obs."
        return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix)}


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
        self.record = np.dtype(
            [
                ("reward", np.float32),
                ("task", np.int32),
                ("flags", np.bool_, (len(FLAGS),)),
                ("prev_action", *arrived),
            ]
        )
        """Fields of four bytes each, and an action of one or A of them."""
        self.columns = {f"obs.{key}": Column(obs.shape, obs.dtype) for key, obs in spec.obs.items()}
        self._opaque = np.dtype((np.void, self.record.itemsize))
        self.columns["record"] = Column((), self._opaque)

    def pack(self, step: Step, prev_action: np.ndarray) -> dict[str, np.ndarray]:
        """A step and the actions that led to it -> [E, ...] per column."""
        self._check(step, prev_action)
        record = np.empty(len(step.reward), self.record)
        record["prev_action"] = prev_action
        record["reward"] = step.reward
        record["task"] = step.task
        for place, flag in enumerate(FLAGS):
            record["flags"][:, place] = getattr(step, flag)
        obs = {f"obs.{key}": step.obs[key] for key in self._spec.obs}
        return {"record": record.view(self._opaque), **obs}

    def unpack(self, columns: Mapping[str, Tensor]) -> dict[str, Any]:
        """[B, T, ...] per column, the record as bytes -> the fields of a `Batch` from rows.

        On any device. The task stays behind: nobody learns from it.
        """
        record = columns["record"]
        words = record.view(torch.float32)
        reward = words[..., 0].contiguous()
        flags = record[..., 8 : 8 + len(FLAGS)].view(torch.bool).movedim(-1, 0).contiguous()
        if self._discrete:  # -1, "none", equals no class: zeros
            classes = torch.arange(self._spec.action.size, device=record.device)
            prev_action = (record.view(torch.int32)[..., 3:] == classes).float()
        else:
            prev_action = words[..., 3:].contiguous()
        obs = {key: columns[f"obs.{key}"] for key in self._spec.obs}
        fields = {"obs": obs, "prev_action": prev_action, "reward": reward}
        return {**fields, **dict(zip(FLAGS, flags.unbind(0), strict=True))}

    def as_json(self) -> dict[str, Any]:
        """What a reader of the stored rows has to know; `from_json` is the inverse."""
        spec = self._spec
        return {
            "environment": spec.name,
            "observations": {k: [list(obs.shape), obs.kind] for k, obs in spec.obs.items()},
            "actions": [spec.action.kind, spec.action.size],
        }

    @staticmethod
    def from_json(known: Mapping[str, Any]) -> "RowLayout":
        """The layout of rows that another process stored."""
        obs = {k: ObsSpec(tuple(shape), kind) for k, (shape, kind) in known["observations"].items()}
        return RowLayout(EnvSpec(known["environment"], obs, ActionSpec(*known["actions"])))

    @property
    def spec(self) -> EnvSpec:
        """The environment's spaces."""
        return self._spec

    def rollout(self, columns: Callable[[], Mapping[str, np.ndarray]]) -> Rollout:
        """The rows that `columns` reads, by name."""
        return Rollout(self.record, columns)

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
