"""The selective scan of Mamba-1 (S6): a diagonal recurrence whose steps depend on the input."""

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

_NAME = "selective_scan"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reset: Tensor | None = None,
    initial_state: Tensor | None = None,
    emit: Emit = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """With d = delta + delta_bias, or softplus of that, per channel i and state n:

        h_t = exp(d_t A) h_{t-1} + d_t u_t B_t;   y_t = (sum_n h_t C_t + D u_t) * silu(z_t)

    Shapes: u, delta, z [B, T, I]; A [I, N], negative where the state decays; B, C [B, T, N];
    D, delta_bias [I]; reset bool [B, T]: h_{t-1} becomes zero, whatever it held, before step t;
    initial_state [B, I, N], zeros if None; emit: see `worldmodels.kernels.sequence.Emit`.

    Returns y [B, T, I] in the dtype of u, the last state [B, I, N] and the states after the
    emitted steps [M, I, N] or None. States and arithmetic are float32 (float64 where u is);
    states need not be contiguous. Gradients reach every tensor from all three results, once.
    `implementation` overrides the choice of `dispatch`. Raises ValueError for a wrong shape, emit
    or implementation. Source: Mamba (arXiv 2312.00752), with delta B for the input's scale.
    """
    check_sequence(_NAME, "u", u, 3)
    batch, length, width = u.shape
    check_shape(_NAME, "delta", delta, (batch, length, width))
    check_shape(_NAME, "A", A, (width, A.shape[-1]))
    size = A.shape[1]
    for name, x in (("B", B), ("C", C)):
        check_shape(_NAME, name, x, (batch, length, size))
    for name, x in (("D", D), ("delta_bias", delta_bias)):
        check_shape(_NAME, name, x, (width,))
    check_shape(_NAME, "z", z, (batch, length, width))
    check_shape(_NAME, "initial_state", initial_state, (batch, width, size))
    check_reset(_NAME, reset, batch, length)
    check_emit(_NAME, emit)
    run = load(_NAME, u, implementation)
    with no_autocast(u):
        return run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reset, initial_state, emit)


def selective_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reset: Tensor | None = None,
    state: Tensor,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`, without the time axis: y [B, I] and the next state [B, I, N].

    u, delta, z [B, I]; B, C [B, N]; reset bool [B]; state [B, I, N]. The kernels have tiles of
    their own for it.
    """
    y, state, _ = selective_scan(
        u[:, None],
        delta[:, None],
        A,
        B[:, None],
        C[:, None],
        D,
        None if z is None else z[:, None],
        delta_bias,
        delta_softplus,
        reset=None if reset is None else reset[:, None],
        initial_state=state,
        implementation=implementation,
    )
    return y[:, 0], state
