"""The plain loop, until the fast form is here."""

from worldmodels.kernels.ssd.reference import ssd as _loop


def ssd(*args):
    """See `worldmodels.kernels.ssd.ssd`."""
    return _loop(*args)
