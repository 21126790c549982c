"""The console command `worldmodels`: finds the command's module, imports it, reports its errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from worldmodels import __version__
from worldmodels.errors import Stopped, UserError, near

COMMANDS = {
    "train": ("worldmodels.cli.train", "train an agent, or resume a run"),
    "collect": ("worldmodels.cli.collect", "record a data set to learn from offline"),
    "eval": ("worldmodels.cli.evaluate", "play episodes with a trained agent"),
    "dream": ("worldmodels.cli.dream", "draw what a trained agent imagines against what happens"),
    "replay": ("worldmodels.cli.replay", "inspect, verify or export the rows of a run"),
    "bench": ("worldmodels.cli.bench", "time updates, replay, kernels and backbones here"),
    "envs": ("worldmodels.cli.envs", "list the environments"),
    "doctor": ("worldmodels.cli.doctor", "say what works on this machine, and why"),
    "runs": ("worldmodels.cli.runs", "list the run folders"),
    "report": ("worldmodels.cli.report", "compare runs: scores, and continual learning"),
}
"""Command -> (module with `run(argv)`, one line of help)."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    _spin_briefly()
    try:
        _dispatch([arg for arg in args if arg != "--debug"])
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, message = _explain(error)
        if message:
            print(message, file=sys.stderr)
        raise SystemExit(code) from None
    raise SystemExit(0)


def _spin_briefly() -> None:
    """Before torch is loaded: threads that wait for each other give the core away soon.

    GNU OpenMP's own 300,000 rounds cost nothing to a run that is alone, and starve two that share
    a machine (experiments/bench_cpu).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and the one line that the user reads."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BrokenPipeError):  # as in `worldmodels envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141, ""
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, UserError):
        return error.exit_code, f"error: {error}"
    message = " ".join(str(error).split()) or "no message"
    return 1, (
        f"error: {type(error).__name__}: {message}; run again with --debug for the traceback"
    )


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
    elif argv[0] == "--version":
        print(f"worldmodels {__version__}")
    elif argv[0] in COMMANDS:
        import_module(COMMANDS[argv[0]][0]).run(argv[1:])
    else:
        advice = near(argv[0], COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{argv[0]}'{advice}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return f"""\
usage: worldmodels COMMAND [OPTIONS]

World models for reinforcement learning with swappable sequence backbones.

commands:
{commands}

  worldmodels COMMAND --help   the options of a command
  worldmodels --version        the version
  --debug                      with any command: show the traceback of an error

first steps: worldmodels doctor; worldmodels train catch"""
