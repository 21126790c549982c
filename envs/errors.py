"""The one exception a user is meant to read, and the near names that it lists.

Also `worldmodels.errors.UserError` and `.near`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def near(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?`, or an empty string where nothing is close."""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{by_lower[name]}'" for name in close) + "?"


class UserError(Exception):
    """What went wrong, where, and what to do, in one sentence.

    The command line prints its text alone and exits with `exit_code`; a traceback appears only
    with `--debug`.
    """

    exit_code = 2
