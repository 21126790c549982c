"""Squared error between the sigmoid of logits and bytes."""

from torch import Tensor

from worldmodels.kernels.dispatch import load


def sigmoid_error(logits: Tensor, target: Tensor) -> Tensor:
    """logits [N, ...], target uint8 of that shape -> sum of (sigmoid(logits) - target / 255)^2 [N].

    In float32; the gradient reaches the logits alone.
    """
    return load("sigmoid_error", logits)(logits, target)
