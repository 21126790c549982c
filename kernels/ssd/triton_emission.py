"""The states that were asked for, as an operator: chunks walked again, step by step in float32.

All chunks at once, each from the state that it starts from.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodels.kernels.launch import launch, operator
from worldmodels.kernels.ssd.triton_common import load_state, over_heads, store_state
from worldmodels.kernels.ssd.triton_steps import blocks


@operator("ssd_emission")
def emission(
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    reset: Tensor | None,
    before: Tensor,
    order: Tensor,
    offsets: Tensor,
    chunk: int,
) -> Tensor:
    """States [M, H, P, N] after the steps that `order` and `offsets` name (see `requests`).

    `before` [B, chunks, H, P, N] are the states that the chunks start from.
    """
    number, options = blocks(x, B)
    emitted = d.new_empty(order.shape[0], *before.shape[2:])
    launch(
        emission_kernel,
        (x.shape[0] * x.shape[2], number, before.shape[1]),
        x=x,
        d=d,
        decay=decay,
        B=B,
        reset=reset,
        before=before,
        order=order,
        offsets=offsets,
        emitted=emitted,
        length=x.shape[1],
        CHUNK=chunk,
        **options,
    )
    return emitted


@operator("ssd_emission_backward")
def _backward(
    grad_emitted: Tensor,
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    reset: Tensor | None,
    before: Tensor,
    order: Tensor,
    offsets: Tensor,
    emitted: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, d, decay, B and `before`."""
    batch, length, heads, _ = x.shape
    number, options = blocks(x, B)
    grad_x, grad_before = torch.empty_like(x), torch.empty_like(before)
    grad_d, grad_decay = d.new_empty(2, number, batch, length, heads)
    grad_B = d.new_empty(number, batch, length, heads, B.shape[3])
    launch(
        emission_backward_kernel,
        (batch * heads, number, before.shape[1]),
        x=x,
        d=d,
        decay=decay,
        B=B,
        reset=reset,
        order=order,
        offsets=offsets,
        emitted=emitted,
        grad_emitted=grad_emitted,
        grad_x=grad_x,
        grad_d=grad_d,
        grad_decay=grad_decay,
        grad_B=grad_B,
        grad_before=grad_before,
        length=length,
        CHUNK=chunk,
        **options,
    )
    return grad_x, grad_d.sum(0), grad_decay.sum(0), over_heads(grad_B, B), grad_before


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, output)


def _differentiate(ctx, grad) -> tuple:
    *found, before = _backward(grad.contiguous(), *ctx.saved_tensors, ctx.chunk)
    return *found, None, before, None, None, None


emission.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def emission_kernel(
    x,
    d,
    decay,
    B,
    reset,
    before,
    order,
    offsets,
    emitted,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """h = e^(l_t) h + X_t B_t^T through a chunk of a head of a row, for a block of p."""
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    chunk, chunks = tl.program_id(2), tl.num_programs(2)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    first = row * length + chunk * CHUNK
    steps = tl.minimum(CHUNK, length - chunk * CHUNK)
    asked = tl.load(offsets + first) < tl.load(offsets + first + steps)
    steps = tl.where(asked, steps, 0)

    h = load_state(before, (row * chunks + chunk) * HEADS + head, p, n, WIDTH, SIZE)
    for at in range(first, first + steps):
        place = at * HEADS + head
        x_t = tl.load(x + place * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
        B_t = tl.load(B + (at * GROUPS + group) * SIZE + n, mask=n < SIZE, other=0.0)
        X = tl.load(d + place) * x_t
        h *= tl.exp(tl.load(decay + place))
        if reset is not None:
            h = tl.where(tl.load(reset + at), 0.0, h)
        h += X[:, None] * B_t.to(tl.float32)[None, :]
        for k in range(tl.load(offsets + at), tl.load(offsets + at + 1)):
            state = tl.load(order + k).to(tl.int64) * HEADS + head
            store_state(emitted, state, p, n, h, WIDTH, SIZE)


@triton.jit
def emission_backward_kernel(
    x,
    d,
    decay,
    B,
    reset,
    order,
    offsets,
    emitted,
    grad_emitted,
    grad_x,
    grad_d,
    grad_decay,
    grad_B,
    grad_before,
    length,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The same chunk from its last step to its first, with g the gradient of h_t:

        g   += the gradients gE of the states emitted at t
        gX_t = g B_t          gB_t = g^T X_t         gx_t = d_t gX_t         gd_t = <gX_t, x_t>
        gl_t = gl_(t+1) + sum <gE, h_t> - <gX_t, X_t>,  which is <g, e^(l_t) h_(t-1)>
        g    = e^(l_t) g;  it and gl_t are 0 at a reset

    Of the states it needs those emitted alone. gd, gl and gB are those of the block of p.
    """
    row, head = tl.program_id(0).to(tl.int64) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    chunk, chunks = tl.program_id(2), tl.num_programs(2)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    first = row * length + chunk * CHUNK
    part = tl.program_id(1) * tl.num_programs(0).to(tl.int64) * length

    g = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    gl = tl.zeros((BLOCK_P,), tl.float32)
    steps = tl.minimum(CHUNK, length - chunk * CHUNK)
    for back in range(steps):
        at = first + steps - 1 - back
        for k in range(tl.load(offsets + at), tl.load(offsets + at + 1)):
            state = tl.load(order + k).to(tl.int64) * HEADS + head
            gE = load_state(grad_emitted, state, p, n, WIDTH, SIZE)
            gl += tl.sum(gE * load_state(emitted, state, p, n, WIDTH, SIZE), 1)
            g += gE
        place = at * HEADS + head
        d_t = tl.load(d + place)
        x_t = tl.load(x + place * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
        B_t = tl.load(B + (at * GROUPS + group) * SIZE + n, mask=n < SIZE, other=0.0)
        gX = tl.sum(g * B_t.to(tl.float32)[None, :], 1)
        gB = tl.sum((d_t * x_t)[:, None] * g, 0)
        gl -= d_t * (gX * x_t)
        g *= tl.exp(tl.load(decay + place))
        if reset is not None:
            cut = tl.load(reset + at)
            g = tl.where(cut, 0.0, g)
            gl = tl.where(cut, 0.0, gl)
        to = part + place
        tl.store(grad_d + to, tl.sum(gX * x_t, 0))
        tl.store(grad_decay + to, tl.sum(gl, 0))
        tl.store(grad_B + to * SIZE + n, gB, mask=n < SIZE)
        tl.store(grad_x + place * WIDTH + p, d_t * gX, mask=p < WIDTH)
    store_state(grad_before, (row * chunks + chunk) * HEADS + head, p, n, g, WIDTH, SIZE)
