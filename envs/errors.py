"""The one exception a user is meant to read; also `worldmodels.errors.UserError`."""


class UserError(Exception):
    """What went wrong, where, and what to do, in one sentence.

    The command line prints its text alone and exits with `exit_code`; a traceback appears only
    with `--debug`.
    """

    exit_code = 2
