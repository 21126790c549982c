"""Errors meant for the user, and the near names they list."""

from worldmodels.envs.errors import UserError, near

__all__ = ["NonFinite", "Stopped", "UserError", "near"]


class Stopped(UserError):
    """A signal ended the run after it was saved; the text says how to continue."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class NonFinite(UserError):
    """A loss became infinite or no number; the text says where the batch was dumped."""

    exit_code = 1
