"""The plain loop, until the fast form is here."""

from worldmodels.kernels.causal_conv.reference import causal_conv as _loop


def causal_conv(*args):
    """See `worldmodels.kernels.causal_conv.causal_conv`."""
    return _loop(*args)
