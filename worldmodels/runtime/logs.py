"""Metrics and scores on disk: `metrics.jsonl`, `scores.jsonl`, TensorBoard, `log.txt`."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class JsonLines:
    """An append-only file of one JSON object a line, flushed line by line."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes so far, all of them on disk: what a checkpoint remembers."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Drop the lines past a checkpoint's `size`; the resumed run writes them again."""
        self._file.truncate(min(size, self.size()))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Logs:
    """Everything a run writes about itself, by agent step."""

    def __init__(self, run: Path, tensorboard: bool):
        self.metrics = JsonLines(run / "metrics.jsonl")
        self.scores = JsonLines(run / "scores.jsonl")
        self._folder = run / "tensorboard" if tensorboard else None
        self._writer: Any = None

    def write_metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics, and a point per name in TensorBoard."""
        self.metrics.write({"step": step, **values})
        self._points(step, values)

    def write_score(self, row: dict[str, Any]) -> None:
        """One line of scores: a training episode, or the evaluation of a task."""
        self.scores.write(row)
        if row["kind"] == "train":
            self._points(row["step"], {"score/train": row["return"]})
        else:
            of_task = "" if row["task"] == row["env"] else f"/{row['task']}"
            self._points(row["step"], {f"score/eval{of_task}": row["mean"]})

    def state_dict(self) -> dict[str, int]:
        """Where the files end now."""
        return {"metrics": self.metrics.size(), "scores": self.scores.size()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cut the files to where they ended."""
        self.metrics.cut(state["metrics"])
        self.scores.cut(state["scores"])

    def _points(self, step: int, values: dict[str, float]) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close every file."""
        self.metrics.close()
        self.scores.close()
        if self._writer is not None:
            self._writer.close()


class Means:
    """Running means of 0-d tensors by name, kept on their device until they are read."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one update's values; not every update need have the same names."""
        for name, value in values.items():
            total = self._sums.get(name)
            self._sums[name] = value.float() if total is None else total + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means since the last call."""
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        counts, self._sums, self._counts = self._counts, {}, {}
        return {name: total / counts[name] for name, total in zip(names, sums, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
