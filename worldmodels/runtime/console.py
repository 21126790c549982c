"""What a run shows: a live view on a terminal, plain lines elsewhere; all lines go to log.txt."""

import os
import sys
import time
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_SECONDS = 5.0
"""Between two plain progress lines."""


class Console:
    """`say` prints a line for good; `show` renews the live view or, now and then, prints a line."""

    def __init__(self, run: Path | None, quiet: bool = False):
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live_wanted = sys.stdout.isatty() and not quiet and not os.environ.get("CI")
        self._log = None if run is None else (run / "log.txt").open("a", encoding="utf-8")
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._rich,
        )
        self._task = None
        self._shown = 0.0

    def __enter__(self) -> "Console":
        if self._live_wanted:
            self._live = Live(console=self._rich, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def say(self, *lines: str) -> None:
        """Print each line and keep it in log.txt."""
        for line in lines:
            if self._log is not None:
                self._log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
                self._log.flush()
            if not self._quiet:
                self._rich.print(Text(line))

    def show(self, name: str, step: int, steps: int, values: dict[str, str]) -> None:
        """Progress of the run and its latest numbers."""
        if self._live is not None:
            self._live.update(self._view(name, step, steps, values))
        elif not self._quiet and (time.monotonic() - self._shown > _SECONDS or step >= steps):
            self._shown = time.monotonic()
            numbers = "  ".join(f"{key} {value}" for key, value in values.items())
            self._rich.print(Text(f"{name} step {step}/{steps}  {numbers}"))

    def _view(self, name: str, step: int, steps: int, values: dict[str, str]) -> Group:
        if self._task is None:
            self._task = self._progress.add_task(name, total=steps, completed=step)
        self._progress.update(self._task, completed=step)
        table = Table.grid(padding=(0, 2))
        names = list(values)
        for start in range(0, len(names), 4):
            cells = [f"[dim]{key}[/dim] {values[key]}" for key in names[start : start + 4]]
            table.add_row(*cells)
        return Group(self._progress, table)
