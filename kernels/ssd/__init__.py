"""The state-space dual form of Mamba-2: one decay per head, states that are matrices."""

from torch import Tensor

from worldmodels.kernels.dispatch import load
from worldmodels.kernels.sequence import (
    Emit,
    check_emit,
    check_reset,
    check_sequence,
    check_shape,
    no_autocast,
)

_NAME = "ssd"


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    chunk: int = 64,
    reset: Tensor | None = None,
    initial_state: Tensor | None = None,
    emit: Emit = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """With d = dt + dt_bias, or softplus of that, per head:

        h_t = exp(d_t A) h_{t-1} + d_t x_t B_t^T;   y_t = (h_t C_t + D x_t) * silu(z_t)

    Shapes: x, z [B, T, H, P]; dt [B, T, H]; A [H] or, a decay of its own at every step, [B, T, H];
    B, C [B, T, G, N], where head h reads group h // (H / G); D [H] or [H, P]; dt_bias [H];
    reset bool [B, T]: h_{t-1} becomes zero before step t; initial_state [B, H, P, N], zeros if
    None; emit: see `worldmodels.kernels.sequence.Emit`. `chunk` is how many steps become one
    matrix product; results depend on it by rounding alone.

    dt may have any sign and size. Decay and scale of the input come apart with dt = 1 and A
    [B, T, H] the logarithm of the decay: h_t = exp(A_t) h_{t-1} + x_t B_t^T.

    `eager` goes step by step where all states are emitted: writing them is then most of the work.

    Returns y [B, T, H, P] in the dtype of x, the last state [B, H, P, N] and the states after the
    emitted steps [M, H, P, N] or None. States and arithmetic are float32 (float64 where x is).
    Gradients reach every tensor from all three results, once. `implementation` overrides the
    choice of `dispatch`. Raises ValueError for a wrong shape, chunk, emit or implementation.
    Source: Mamba-2 (arXiv 2405.21060).
    """
    check_sequence(_NAME, "x", x, 4)
    batch, length, heads, width = x.shape
    check_shape(_NAME, "dt", dt, (batch, length, heads))
    check_shape(_NAME, "A", A, (heads,), (batch, length, heads))
    check_sequence(_NAME, "B", B, 4)
    groups, size = B.shape[2:]
    check_shape(_NAME, "B", B, (batch, length, groups, size))
    check_shape(_NAME, "C", C, (batch, length, groups, size))
    check_shape(_NAME, "D", D, (heads,), (heads, width))
    check_shape(_NAME, "z", z, (batch, length, heads, width))
    check_shape(_NAME, "dt_bias", dt_bias, (heads,))
    check_shape(_NAME, "initial_state", initial_state, (batch, heads, width, size))
    check_reset(_NAME, reset, batch, length)
    check_emit(_NAME, emit)
    if heads % groups:
        raise ValueError(f"ssd: {heads} heads do not divide into {groups} groups; change either")
    if chunk < 1:
        raise ValueError(f"ssd: chunk is {chunk}; give at least 1")
    run = load(_NAME, x, implementation)
    with no_autocast(x):
        return run(x, dt, A, B, C, D, z, dt_bias, dt_softplus, chunk, reset, initial_state, emit)
