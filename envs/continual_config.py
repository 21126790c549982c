"""The options of a task stream, and its schedule. Imports neither numpy nor an environment."""

import random
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from worldmodels.envs.continual_tasks import STREAMS, Task, read_stream, read_task, tested_on
from worldmodels.envs.errors import UserError, near
from worldmodels.envs.names import CONTINUAL, canonical_continual

_ORDERS = ("given", "reversed", "shuffled")


@dataclass(frozen=True)
class ContinualConfig:
    """Tasks one after the other; a switch ends the episode, and the agent is not told."""

    name: str = "continual:catch"
    """Environment name, `continual:STREAM` or `continual:FILE.yaml`."""
    tasks: tuple[str, ...] = ()
    """Environments, each a name or `{name: ..., label: ..., option: ...}`; of the stream itself
    unless given."""
    steps_per_task: int = 0
    """Agent steps of a task each time it comes, over all environments; 0 before the stream's own is
    known."""
    cycles: int = 1
    """Times that the whole order is gone through."""
    order: Literal["given", "reversed", "shuffled"] = "given"
    """Order of the tasks, the same in every cycle."""
    order_seed: int = 0
    """Draws the order where it is shuffled."""
    task: str = ""
    """Label of one task to stay on for the whole run: the single-task reference."""

    def __post_init__(self) -> None:
        self._set("name", canonical_continual(self.name))
        if not self.tasks:
            self._fill()
        if self.tasks:
            self._set("tasks", tuple(read_task(text).text for text in self.tasks))
            self._check()

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _fill(self) -> None:
        """Take what the stream itself says; options that differ from their defaults hold."""
        try:
            found = self._source()
        except UserError:
            return  # a resumed run brings its tasks along; any other asks for `parts`, which raises
        defaults = {field.name: field.default for field in fields(self)}
        for key, value in found.items():
            if getattr(self, key) == defaults[key]:
                self._set(key, value)

    def _source(self) -> dict[str, Any]:
        stream = self.name.partition(":")[2]
        if stream in CONTINUAL:
            return dict(STREAMS[stream])
        types = get_type_hints(type(self))
        kinds = {key: types[key] for key in ("steps_per_task", "cycles", "order", "order_seed")}
        found = read_stream(Path(stream), kinds)
        if not found.get("steps_per_task"):
            raise UserError(f"{stream}: steps_per_task is missing; add the agent steps of a task")
        replace(self, task="", **found)  # its errors, with the file's name
        return found

    def _check(self) -> None:
        for key in ("steps_per_task", "cycles"):
            if getattr(self, key) < 1:
                raise UserError(f"{self.name}: {key} is at least 1, not {getattr(self, key)}")
        if self.order not in _ORDERS:
            raise UserError(f"{self.name}: order is one of {', '.join(_ORDERS)}, not {self.order}")
        if self.order_seed < 0:
            raise UserError(f"{self.name}: order_seed is at least 0, not {self.order_seed}")
        labels = self.task_names
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UserError(f"{self.name}: two tasks are called '{twice}'; give each its label")
        if self.task and self.task not in labels:
            advice = near(self.task, labels) or f"; there are {', '.join(labels)}"
            raise UserError(f"{self.name} has no task '{self.task}'{advice}")

    @property
    def parts(self) -> tuple[Task, ...]:
        """The tasks as declared; UserError where the stream's file cannot be read."""
        if not self.tasks:
            self._source()
            raise UserError(f"{self.name} was read before its file was there; build it again")
        return tuple(read_task(text) for text in self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Labels by index, which neither `order` nor `task` changes."""
        return tuple(task.label for task in self.parts)

    @property
    def visits(self) -> tuple[int, ...]:
        """Indices of the tasks in the order in which they come, all cycles."""
        order = list(range(len(self.parts)))
        if self.task:
            return (self.task_names.index(self.task),)
        if self.order == "reversed":
            order.reverse()
        elif self.order == "shuffled":
            random.Random(self.order_seed).shuffle(order)
        return tuple(order * self.cycles) if len(order) > 1 else (0,)

    @property
    def total_steps(self) -> int:
        """Agent steps of the whole stream; with `task`, those that it has of that task."""
        tasks = 1 if self.task else len(self.parts)
        return self.steps_per_task * self.cycles * tasks

    def task_at(self, step: int) -> str:
        """The label of the task that agent step `step` (from 0) of a run belongs to."""
        visits = self.visits
        return self.task_names[visits[min(step // self.steps_per_task, len(visits) - 1)]]

    def describe(self, steps: int) -> str:
        """The schedule in a line, and how it fits a run of `steps`."""
        names, visits, total = self.task_names, self.visits, self.total_steps
        plan = f"stream {self.name}: "
        if self.task:
            plan += f"{total} steps of the task '{self.task}' alone"
        else:
            cycles = f" x {self.cycles} cycles" if self.cycles > 1 else ""
            plan += (
                f"{len(names)} tasks x {self.steps_per_task} steps{cycles} = {total} steps; "
                f"order {', '.join(names[i] for i in visits[: len(names)])}"
            )
        if steps < total:
            plan += f"; the run's {steps} steps end in task '{self.task_at(steps - 1)}'"
        elif steps > total:
            plan += f"; the run's {steps} steps stay on the last task"
        if self.order_seed and self.order != "shuffled":
            plan += f"; order_seed {self.order_seed} has no effect, because order is {self.order}"
        return plan

    def for_lane(self, index: int, count: int) -> "ContinualConfig":
        """The stream of one of `count` environments, which share a task's steps between them."""
        if len(self.visits) == 1:
            return self
        if self.steps_per_task < count:
            raise UserError(
                f"{self.name}: steps_per_task is {self.steps_per_task}, less than the {count} "
                "environments that share it; raise it, or lower --num-envs"
            )
        share = self.steps_per_task // count + (index < self.steps_per_task % count)
        return replace(self, steps_per_task=share)

    @property
    def evaluations(self) -> dict[str, "ContinualConfig"]:
        """Every task alone by its label, and its held-out levels; with `task`, that one."""
        found = {}
        for place, task in enumerate(self.parts):
            if self.task in ("", task.label):
                for label, text in tested_on(task).items():
                    tasks = (*self.tasks[:place], text, *self.tasks[place + 1 :])
                    found[label] = replace(self, tasks=tasks, task=task.label)
        return found
