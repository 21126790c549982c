"""What the kernels of the state-space dual form share, and the maths that they implement.

Per head, with X_t = d_t x_t, the logarithm l_t of the decay and h_{t-1} = 0 at a reset:

    h_t = e^(l_t) h_{t-1} + X_t B_t^T          [P, N]
    p_t = h_t C_t + D x_t,   y_t = p_t silu(z_t)

A chunk of Q steps is matrix products. Let H be the state before it, H' that after it and S_i the
sum of l from its start to step i. It decays by

    M_ij = e^(S_i - S_j) from step j to step i >= j      w_i = e^(S_i) from H to step i
    v_j = e^(S_Q - S_j) from step j to H'                r = e^(S_Q) from H to H'

and by 0 where a reset lies between. Then

    p = ((C B^T * M) X + w (C H^T)) + D x,   H' = r H + X^T (v B)

S_i - S_j must be good to float32 also where S is huge, so S is a sum of two floats. It begins anew
at every reset: no bit of the past remains. What a reset cuts is replaced by 0, not multiplied by 0:
a not-a-number stops there, unless it has to pass a product of the very chunk that it is in.

In all kernels the first axis of the grid is row * H + head; [B, T, ...] tensors are addressed by
the step `at` = row * T + t. Products of chunks need tensor cores with TF32 (compute capability 8).
"""

import triton
import triton.language as tl
from torch import Tensor


def power_of_2(number: int, least: int, most: int) -> int:
    """The power of two at or above `number`, within bounds."""
    return max(least, min(most, triton.next_power_of_2(number)))


def sizes(x: Tensor, B: Tensor) -> dict[str, int]:
    """The constants of every kernel, from x [B, T, H, P] and B [B, T, G, N]."""
    return {"HEADS": x.shape[2], "GROUPS": B.shape[2], "WIDTH": x.shape[3], "SIZE": B.shape[3]}


def over_heads(parts: Tensor, B: Tensor) -> Tensor:
    """The gradient of B [B, T, G, N] from its parts [blocks, B, T, H, N]."""
    return parts.unflatten(3, (B.shape[2], -1)).sum((0, 4)).to(B.dtype)


@triton.jit
def load_heads(pointer, at, head, i, valid, HEADS: tl.constexpr):
    """[Q] of a tensor [B, T, H]: the steps at + i of one head, zero where they are not valid."""
    return tl.load(pointer + at * HEADS + head + i * HEADS, mask=valid, other=0.0)


@triton.jit
def load_rows(pointer, at, stride, i, valid, j, size):
    """[Q, J] in float32: numbers j < size of the valid rows i, which start `stride` apart."""
    mask = valid[:, None] & (j < size)[None, :]
    place = i[:, None] * stride + j[None, :]
    return tl.load(pointer + at + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_rows(pointer, at, stride, i, valid, j, size, tile):
    """The counterpart of `load_rows`."""
    mask = valid[:, None] & (j < size)[None, :]
    tl.store(pointer + at + i[:, None] * stride + j[None, :], tile, mask=mask)


@triton.jit
def load_state(pointer, state, p, n, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """[P, N] in float32, of the state number `state`."""
    return load_rows(pointer, state * (WIDTH * SIZE), SIZE, p, p < WIDTH, n, SIZE)


@triton.jit
def store_state(pointer, state, p, n, tile, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """The counterpart of `load_state`."""
    store_rows(pointer, state * (WIDTH * SIZE), SIZE, p, p < WIDTH, n, SIZE, tile)


@triton.jit
def _join(S, rest, resets, next_S, next_rest, next_resets):
    """The sums over two neighbouring stretches as one; the second alone if a reset is in it.

    Knuth's TwoSum: `total`, and what its rounding lost. No product is here that the compiler could
    fuse with an addition.
    """
    total = S + next_S
    added = total - S
    lost = (S - (total - added)) + (next_S - added)
    S = tl.where(next_resets > 0, next_S, total)
    rest = tl.where(next_resets > 0, next_rest, rest + next_rest + lost)
    return S, rest, resets + next_resets


@triton.jit
def sums(decay, reset, at, head, i, valid, HEADS: tl.constexpr):
    """S since the start of the chunk or the last reset, as two floats, and the resets so far; [Q].

    Steps that are not valid neither decay nor reset; at a reset there is nothing to decay.
    """
    resets = tl.zeros_like(i)
    if reset is not None:
        resets = tl.load(reset + at + i, mask=valid, other=0).to(tl.int32)
    log = load_heads(decay, at, head, i, valid & (resets == 0), HEADS)
    return tl.associative_scan((log, tl.zeros_like(log), resets), 0, _join)


@triton.jit
def between(S, rest, resets, i):
    """M [Q, Q], and where it holds: from step j of [:, j] to step i of [i, :]."""
    holds = (i[:, None] >= i[None, :]) & (resets[:, None] == resets[None, :])
    return tl.exp((S[:, None] - S[None, :]) + (rest[:, None] - rest[None, :])), holds


@triton.jit
def to_end(S, rest, resets, i):
    """v [Q] and where it holds, r and whether it holds."""
    last = i == i.shape[0] - 1
    S_end = tl.sum(tl.where(last, S, 0.0), 0)
    rest_end = tl.sum(tl.where(last, rest, 0.0), 0)
    resets_end = tl.sum(tl.where(last, resets, 0), 0)
    v = tl.exp((S_end - S) + (rest_end - rest))
    return v, resets == resets_end, tl.exp(S_end + rest_end), resets_end == 0
