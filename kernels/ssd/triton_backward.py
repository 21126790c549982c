"""Backward kernels over chunks: gradients of the states between them, then of all that goes in.

gp = gy silu(z) is the gradient of p, H the state before a chunk, g the gradient of that after it.
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
def states_backward_kernel(
    decay,
    C,
    z,
    reset,
    grad_y,
    grad_last,
    grad_before,
    after,
    grad_initial,
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
    """g = r g + (w gp)^T C + the gradient that `before` got, from the last chunk to the first.

    `after` [B, chunks, H, P, N] takes g of every chunk, and `grad_initial` that of the state before
    them all: one head of one row, a block of p and n.
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    i = tl.arange(0, CHUNK)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)

    g = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    if grad_last is not None:
        g = load_state(grad_last, row * HEADS + head, p, n, WIDTH, SIZE)
    chunks = tl.cdiv(length, CHUNK)
    for back in range(chunks):
        chunk = chunks - 1 - back
        state = (row * chunks + chunk) * HEADS + head
        store_state(after, state, p, n, g, WIDTH, SIZE)
        at, valid = row * length + chunk * CHUNK, i < length - chunk * CHUNK
        S, rest, resets = sums(decay, reset, at, head, i, valid, HEADS)
        _, _, r, through = to_end(S, rest, resets, i)
        # What the start does not reach is not even loaded.
        reached = valid & (resets == 0)
        w = tl.where(reached, tl.exp(S + rest), 0.0)
        x_at = (at * HEADS + head) * WIDTH
        gp = load_rows(grad_y, x_at, HEADS * WIDTH, i, reached, p, WIDTH)
        if z is not None:
            z_i = load_rows(z, x_at, HEADS * WIDTH, i, reached, p, WIDTH)
            gp *= z_i * tl.sigmoid(z_i)
        C_i = load_rows(C, (at * GROUPS + group) * SIZE, GROUPS * SIZE, i, reached, n, SIZE)
        g = tl.where(through, r * g, 0.0)
        g = tl.dot(tl.trans(w[:, None] * gp), C_i, g, input_precision=PRECISION)
        if grad_before is not None:
            g += load_state(grad_before, state, p, n, WIDTH, SIZE)
    store_state(grad_initial, row * HEADS + head, p, n, g, WIDTH, SIZE)


@triton.jit
def inputs_backward_kernel(
    x,
    d,
    decay,
    B,
    C,
    D,
    z,
    reset,
    after,
    grad_y,
    grad_x,
    grad_d,
    grad_D,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    SLICE_P: tl.constexpr,
    SLICE_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What goes with p, of a chunk of a head of a row:

    gX = (C B^T * M)^T gp + v (B g^T),   gx = d gX + D gp
    gd_i = <gX_i, x_i>,   gD = sum_i gp_i x_i, one part for each chunk
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    i = tl.arange(0, CHUNK)
    at, valid = row * length + chunk * CHUNK, i < length - chunk * CHUNK
    x_at = (at * HEADS + head) * WIDTH
    B_at = (at * GROUPS + head // (HEADS // GROUPS)) * SIZE
    state = (row * chunks + chunk) * HEADS + head

    scores = tl.zeros((CHUNK, CHUNK), tl.float32)
    for first in range(0, SIZE, SLICE_N):
        n = first + tl.arange(0, SLICE_N)
        B_i = load_rows(B, B_at, GROUPS * SIZE, i, valid, n, SIZE)
        C_i = load_rows(C, B_at, GROUPS * SIZE, i, valid, n, SIZE)
        scores = tl.dot(C_i, tl.trans(B_i), scores, input_precision=PRECISION)

    S, rest, resets = sums(decay, reset, at, head, i, valid, HEADS)
    M, holds = between(S, rest, resets, i)
    v, reaches, _, _ = to_end(S, rest, resets, i)
    turned = tl.trans(tl.where(holds, scores * M, 0.0))
    d_i = load_heads(d, at, head, i, valid, HEADS)
    gd = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, WIDTH, SLICE_P):
        p = start + tl.arange(0, SLICE_P)
        gX = tl.zeros((CHUNK, SLICE_P), tl.float32)
        for first in range(0, SIZE, SLICE_N):
            n = first + tl.arange(0, SLICE_N)
            B_i = load_rows(B, B_at, GROUPS * SIZE, i, valid, n, SIZE)
            g = load_state(after, state, p, n, WIDTH, SIZE)
            gX = tl.dot(B_i, tl.trans(g), gX, input_precision=PRECISION)
        gp = load_rows(grad_y, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
        if z is not None:
            z_i = load_rows(z, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
            gp *= z_i * tl.sigmoid(z_i)
        gX = tl.where(reaches[:, None], v[:, None] * gX, 0.0)
        gX = tl.dot(turned, gp, gX, input_precision=PRECISION)
        x_i = load_rows(x, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
        gd += tl.sum(gX * x_i, 1)
        gx = d_i[:, None] * gX
        if D is not None:
            gx += tl.load(D + head * WIDTH + p, mask=p < WIDTH, other=0.0)[None, :] * gp
            tl.store(grad_D + state * WIDTH + p, tl.sum(gp * x_i, 0), mask=p < WIDTH)
        store_rows(grad_x, x_at, HEADS * WIDTH, i, valid, p, WIDTH, gx)
    tl.store(grad_d + at * HEADS + head + i * HEADS, gd, mask=valid)


@triton.jit
def pairs_backward_kernel(
    x,
    d,
    decay,
    B,
    C,
    z,
    reset,
    before,
    after,
    grad_y,
    grad_decay,
    grad_B,
    grad_C,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    SLICE_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What goes with n, of a chunk of a head of a row, a block of n:

        E = gp X^T * M,   gC = E B + w (gp H),   gB = E^T C + v (X g)

    gB and gC are those of one head. The gradient of l_t is all that flows across step t, to it or
    past it from before it:

        gl_t = sum_(j < t <= i) E_ij (C B^T)_ij + sum_(i >= t) w_i <gp_i, H C_i>
             + sum_(j < t) v_j <X_j, g B_j> + r <g, H>

    Unlike a difference of sums over later steps it cancels nothing, and as nothing flows across a
    reset it is exactly 0 there. It is linear in n, and is given for the block of n.
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    chunk, chunks = tl.program_id(2), tl.num_programs(2)
    i = tl.arange(0, CHUNK)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    at, valid = row * length + chunk * CHUNK, i < length - chunk * CHUNK
    x_at = (at * HEADS + head) * WIDTH
    B_at = (at * GROUPS + head // (HEADS // GROUPS)) * SIZE
    state = (row * chunks + chunk) * HEADS + head
    d_i = load_heads(d, at, head, i, valid, HEADS)

    E = tl.zeros((CHUNK, CHUNK), tl.float32)
    gC = tl.zeros((CHUNK, BLOCK_N), tl.float32)
    gB = tl.zeros((CHUNK, BLOCK_N), tl.float32)
    product = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, WIDTH, SLICE_P):
        p = start + tl.arange(0, SLICE_P)
        X = d_i[:, None] * load_rows(x, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
        gp = load_rows(grad_y, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
        if z is not None:
            z_i = load_rows(z, x_at, HEADS * WIDTH, i, valid, p, WIDTH)
            gp *= z_i * tl.sigmoid(z_i)
        H = load_state(before, state, p, n, WIDTH, SIZE)
        g = load_state(after, state, p, n, WIDTH, SIZE)
        E = tl.dot(gp, tl.trans(X), E, input_precision=PRECISION)
        gC = tl.dot(gp, H, gC, input_precision=PRECISION)
        gB = tl.dot(X, g, gB, input_precision=PRECISION)
        product += tl.sum(g * H, 0)

    S, rest, resets = sums(decay, reset, at, head, i, valid, HEADS)
    M, holds = between(S, rest, resets, i)
    v, reaches, r, through = to_end(S, rest, resets, i)
    E = tl.where(holds, E * M, 0.0)
    gC = tl.where((resets == 0)[:, None], tl.exp(S + rest)[:, None] * gC, 0.0)
    gB = tl.where(reaches[:, None], v[:, None] * gB, 0.0)
    B_i = load_rows(B, B_at, GROUPS * SIZE, i, valid, n, SIZE)
    C_i = load_rows(C, B_at, GROUPS * SIZE, i, valid, n, SIZE)
    entering = tl.sum(gC * C_i, 1, keep_dims=True)
    leaving = tl.sum(gB * B_i, 1, keep_dims=True)
    gC = tl.dot(E, B_i, gC, input_precision=PRECISION)
    gB = tl.dot(tl.trans(E), C_i, gB, input_precision=PRECISION)
    to = (at * HEADS + head) * SIZE
    store_rows(grad_C, to, HEADS * SIZE, i, valid, n, SIZE, gC)
    store_rows(grad_B, to, HEADS * SIZE, i, valid, n, SIZE, gB)

    flows = E * tl.dot(C_i, tl.trans(B_i), input_precision=PRECISION)
    earlier = tl.cumsum(flows, 1) - flows  # at [i, t]: the sum over j < t
    later = i[:, None] >= i[None, :]
    gl = tl.sum(tl.where(later, earlier + entering, leaving), 0)
    gl += tl.where(through, r * tl.sum(product, 0), 0.0)
    part = tl.program_id(1) * (tl.num_programs(0) // HEADS).to(tl.int64) * length + at
    tl.store(grad_decay + part * HEADS + head + i * HEADS, gl, mask=valid)
