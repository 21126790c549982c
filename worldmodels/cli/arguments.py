"""Command-line parsing whose errors are one sentence that lists near names."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from worldmodels.envs.values import whole_number
from worldmodels.errors import UserError, near


class Parser(argparse.ArgumentParser):
    """The options of a command that has only a few."""

    def __init__(self, command: str, description: str = "", add_help: bool = True):
        super().__init__(
            prog=f"worldmodels {command}",
            description=description,
            allow_abbrev=False,
            add_help=add_help,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}; `{self.prog} --help` lists the options")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`."""
        known, unknown = self.parse_known_args(argv)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            raise unexpected(unknown[0], options, f"`{self.prog} --help` lists the options")
        return known


def unexpected(argument: str, options: Sequence[str], advice: str) -> UserError:
    """The error for an argument that no option takes."""
    if not argument.startswith("-"):
        return UserError(f"unexpected argument '{argument}'; {advice}")
    name = argument.partition("=")[0]
    return UserError(f"unknown option '{name}'{near(name, options) or f'; {advice}'}")


def count(text: str) -> int:
    """A whole number of at least 1, `1e5` included."""
    try:
        number = whole_number(text)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is wanted, not '{text}'")
    return number
