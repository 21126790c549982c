"""A single step without a time axis is the sequence of one row."""

import pytest
import torch

from worldmodels.kernels.causal_conv import conv_step
from worldmodels.kernels.selective_scan import selective_step

LENGTH = 5


def along(inputs, names, t):
    """The inputs of step t; the others as they are."""
    return {name: x[:, t] if name in names else x for name, x in inputs.items()}


@pytest.mark.parametrize("implementation", ["reference", "eager"])
def test_selective_steps_are_the_scan(operators, implementation, draw):
    scan = operators["selective_scan"]
    inputs = scan.make(3, LENGTH, draw)
    reset = torch.rand(3, LENGTH) < 0.4
    y, last, _ = scan(inputs, reset, implementation="reference")
    state = inputs.pop("state")
    for t in range(LENGTH):
        out, state = selective_step(
            **along(inputs, scan.timed, t),
            delta_softplus=True,
            reset=reset[:, t],
            state=state,
            implementation=implementation,
        )
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("implementation", ["reference", "eager"])
def test_convolution_steps_are_the_convolution(operators, implementation, draw):
    conv = operators["causal_conv"]
    inputs = conv.make(3, LENGTH, draw)
    reset = torch.rand(3, LENGTH) < 0.4
    y, last, _ = conv(inputs, reset, implementation="reference")
    window = inputs.pop("state")
    for t in range(LENGTH):
        out, window = conv_step(
            **along(inputs, conv.timed, t),
            activation="silu",
            reset=reset[:, t],
            window=window,
            implementation=implementation,
        )
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(window, last)
