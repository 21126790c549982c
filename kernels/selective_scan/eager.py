"""The plain loop, until the fast form is here."""

from worldmodels.kernels.selective_scan.reference import selective_scan as _loop


def selective_scan(*args):
    """See `worldmodels.kernels.selective_scan.selective_scan`."""
    return _loop(*args)
