"""The convolution that mamba-ssm takes from the library causal-conv1d (CUDA), to compare with."""

import torch
from torch import Tensor

from worldmodels.kernels import libraries
from worldmodels.kernels.causal_conv import windows
from worldmodels.kernels.sequence import segments

_FUNCTION = ("causal_conv1d", "causal_conv1d_fn", "'worldmodels-rl[mamba-ssm]'")
_WIDEST = 4
_TOGETHER = 8
"""Channels that the library loads in one piece."""


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reset: Tensor | None,
    initial_window: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `worldmodels.kernels.causal_conv.causal_conv`. The window takes the dtype of x.

    The library sees resets as the numbers of packed sequences; it returns no window with them, so
    that the last one is found here. Raises ValueError for what it cannot do and ImportError where
    it is missing.
    """
    reasons = []
    if reset is not None and initial_window is not None:
        reasons.append("takes no initial_window together with reset")
    if weight.shape[1] > _WIDEST:
        reasons.append(f"has 2 to {_WIDEST} taps")
    if x.shape[2] % _TOGETHER:
        reasons.append(f"has a multiple of {_TOGETHER} channels")
    libraries.refuse("causal_conv", "mamba_ssm", x, reasons)
    if initial_window is not None:
        initial_window = initial_window.contiguous()
    conv = libraries.function("causal_conv", *_FUNCTION)
    y = conv(
        x.contiguous().mT,
        weight,
        None if bias is None else bias.to(weight.dtype),
        seq_idx=None if reset is None else segments(reset).to(torch.int32),
        initial_states=None if initial_window is None else initial_window.to(x.dtype).mT,
        activation=activation,
    )
    return y.mT, _last_window(x, weight.shape[1], reset, initial_window)


def _last_window(
    x: Tensor, width: int, reset: Tensor | None, initial_window: Tensor | None
) -> Tensor:
    x = x[:, 1 - width :]
    reset = None if reset is None else reset[:, 1 - width :]
    row = torch.arange(x.shape[0], device=x.device)
    last = torch.stack([row, torch.full_like(row, x.shape[1] - 1)], 1)
    return windows(x, width, reset=reset, initial_window=initial_window, emit=last)
