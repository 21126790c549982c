"""Errors meant for the user, and the near names they list."""

from collections.abc import Iterable
from difflib import get_close_matches

from worldmodels.envs.errors import UserError

__all__ = ["NonFinite", "Stopped", "UserError", "near"]


def near(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or an empty string where nothing is close."""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{by_lower[name]}'" for name in close) + "?"


class Stopped(UserError):
    """A signal ended the run after it was saved; the text says how to continue."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class NonFinite(UserError):
    """A loss became infinite or no number; the text says where the batch was dumped."""

    exit_code = 1
