"""Forward kernels over chunks: the states between them, then the outputs, of all chunks at once.

One kernel for both would keep more tiles alive than there are registers: where one product feeds
another, every warp holds the whole of their right operands. Hence the slices of n, too.
"""

import triton
import triton.language as tl

from worldmodels.kernels.ssd.triton_common import (
    between,
    load_heads,
    load_rows,
    load_state,
    store_rows,
    store_state,
    sums,
    to_end,
)


@triton.jit
def states_kernel(
    x,
    d,
    decay,
    B,
    reset,
    initial,
    before,
    last,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """H' = r H + (v X)^T B from chunk to chunk: one head of one row, a block of p and n.

    `before` [B, chunks, H, P, N] takes the states H, and `last` the one after all chunks.
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    i = tl.arange(0, CHUNK)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)

    H = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    if initial is not None:
        H = load_state(initial, row * HEADS + head, p, n, WIDTH, SIZE)
    chunks = tl.cdiv(length, CHUNK)
    for chunk in range(chunks):
        store_state(before, (row * chunks + chunk) * HEADS + head, p, n, H, WIDTH, SIZE)
        at, valid = row * length + chunk * CHUNK, i < length - chunk * CHUNK
        S, rest, resets = sums(decay, reset, at, head, i, valid, HEADS)
        v, reaches, r, through = to_end(S, rest, resets, i)
        # What does not reach the end is not even loaded.
        reaches = reaches & valid
        v = tl.where(reaches, v * load_heads(d, at, head, i, valid, HEADS), 0.0)
        x_i = load_rows(x, (at * HEADS + head) * WIDTH, HEADS * WIDTH, i, reaches, p, WIDTH)
        B_i = load_rows(B, (at * GROUPS + group) * SIZE, GROUPS * SIZE, i, reaches, n, SIZE)
        H = tl.where(through, r * H, 0.0)
        H = tl.dot(tl.trans(v[:, None] * x_i), B_i, H, input_precision=PRECISION)
    store_state(last, row * HEADS + head, p, n, H, WIDTH, SIZE)


@triton.jit
def outputs_kernel(
    x,
    d,
    decay,
    B,
    C,
    D,
    z,
    reset,
    before,
    grad_y,
    y,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICE_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """p = (C B^T * M) X + w (C H^T) + D x and y = p silu(z): a chunk of a head, a block of p.

    Where `grad_y` is given, the gradient of z is left in place of y: gy p silu'(z). The backward
    computes p again so that nothing as large as x is kept in float32.
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    chunk, chunks = tl.program_id(2), tl.num_programs(2)
    i = tl.arange(0, CHUNK)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    at, valid = row * length + chunk * CHUNK, i < length - chunk * CHUNK
    B_at = (at * GROUPS + head // (HEADS // GROUPS)) * SIZE
    state = (row * chunks + chunk) * HEADS + head

    scores = tl.zeros((CHUNK, CHUNK), tl.float32)
    out = tl.zeros((CHUNK, BLOCK_P), tl.float32)
    for first in range(0, SIZE, SLICE_N):
        n = first + tl.arange(0, SLICE_N)
        B_i = load_rows(B, B_at, GROUPS * SIZE, i, valid, n, SIZE)
        C_i = load_rows(C, B_at, GROUPS * SIZE, i, valid, n, SIZE)
        H = load_state(before, state, p, n, WIDTH, SIZE)
        scores = tl.dot(C_i, tl.trans(B_i), scores, input_precision=PRECISION)
        out = tl.dot(C_i, tl.trans(H), out, input_precision=PRECISION)

    S, rest, resets = sums(decay, reset, at, head, i, valid, HEADS)
    M, holds = between(S, rest, resets, i)
    mixed = tl.where(holds, scores * M, 0.0)
    out = tl.where((resets == 0)[:, None], tl.exp(S + rest)[:, None] * out, 0.0)
    x_at = (at * HEADS + head) * WIDTH
    x_i = load_rows(x, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
    X = load_heads(d, at, head, i, valid, HEADS)[:, None] * x_i
    out = tl.dot(mixed, X, out, input_precision=PRECISION)
    if D is not None:
        out += tl.load(D + head * WIDTH + p, mask=p < WIDTH, other=0.0)[None, :] * x_i
    if z is not None:
        z_i = load_rows(z, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
        s = tl.sigmoid(z_i)
        if grad_y is None:
            out *= z_i * s
        else:
            gy = load_rows(grad_y, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
            out *= gy * s * (1.0 + z_i * (1.0 - s))
    store_rows(y, x_at, HEADS * WIDTH, i, valid, p, WIDTH, out)
