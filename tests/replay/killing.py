"""A forked process that works on a replay and is killed at the n-th call to the system."""

import io
import mmap
import os
import signal
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

CALLS = [
    *((os, name) for name in ("open", "write", "fsync", "replace", "ftruncate", "unlink", "mkdir")),
    (io, "open"),
    (np, "savez"),
]
"""All that change what is on disk; opening a file to read it is left out."""
TORN = {"write", "savez", "replace"}
"""What half of a call can be seen of, or all of it and nothing that follows."""


class Acknowledged:
    """A number in memory that both processes see."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 8)

    def add(self) -> None:
        self._memory[:] = struct.pack("<q", self.count + 1)

    @property
    def count(self) -> int:
        return struct.unpack("<q", self._memory[:])[0]


class Killer:
    """Ends this process at the `at`-th call: before it, or (`torn`) when half of it is done."""

    def __init__(self, at: int, torn: bool):
        self.at, self.torn, self.count = at, torn, 0
        for module, name in CALLS:
            if name in TORN or not torn:
                setattr(module, name, self._wrapped(name, getattr(module, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if name == "open" and (args[1:] or ("r",))[0] in ("r", "rb", os.O_RDONLY):
                return call(*args, **named)
            self.count += 1
            if self.count != self.at:
                return call(*args, **named)
            if self.torn and name == "write":
                handle, data = args
                call(handle, data[: len(data) // 2])
            elif self.torn:
                call(*args, **named)
                if name == "savez":
                    args[0].flush()
                    os.truncate(args[0].fileno(), args[0].tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        return wrapped


def in_child(work: Callable[[Acknowledged], object], at: int = 0, torn: bool = False) -> Any:
    """Forks; the child works, killed at call `at` (0: never).

    Returns the number of acknowledged steps, and whether the child was killed.
    """
    done = Acknowledged()
    pid = os.fork()
    if pid == 0:
        try:
            if at:
                Killer(at, torn)
            work(done)
            os._exit(0)
        except BaseException:  # never back into the tests of the parent
            import traceback

            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.WEXITSTATUS(status) == 0
    return done.count, killed


def killed_while(work: Callable[[Acknowledged], object]) -> tuple[int, Acknowledged]:
    """Forks; the child works until it is killed: its process id, and what it acknowledged."""
    done = Acknowledged()
    pid = os.fork()
    if pid == 0:
        try:
            work(done)
        finally:
            os._exit(1)
    return pid, done
