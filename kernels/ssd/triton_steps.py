"""One step of time, as imagination and acting take it, as an operator in exact float32 products."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodels.kernels.launch import launch, operator
from worldmodels.kernels.ssd.triton_common import (
    load_state,
    over_heads,
    power_of_2,
    sizes,
    store_state,
)


def blocks(x: Tensor, B: Tensor) -> tuple[int, dict[str, Any]]:
    """The blocks of p, and how their kernels are launched: 16 numbers of a state a thread."""
    block_n = triton.next_power_of_2(B.shape[3])
    block_p = power_of_2(x.shape[3], 1, max(4096 // block_n, 1))
    options = {"warps": max(block_p * block_n // 512, 1), **sizes(x, B)}
    return triton.cdiv(x.shape[3], block_p), options | {"BLOCK_P": block_p, "BLOCK_N": block_n}


@operator("ssd_step")
def step(
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    reset: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the state after the step; T = 1."""
    number, options = blocks(x, B)
    y, last = torch.empty_like(x), d.new_empty(x.shape[0], *x.shape[2:], B.shape[3])
    launch(
        step_kernel,
        (x.shape[0] * x.shape[2], number),
        x=x,
        d=d,
        decay=decay,
        B=B,
        C=C,
        D=D,
        z=z,
        reset=reset,
        initial=initial,
        y=y,
        last=last,
        **options,
    )
    return y, last


@operator("ssd_step_backward")
def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    x: Tensor,
    d: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    reset: Tensor | None,
    initial: Tensor | None,
    last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, d, decay, B, C, D, z and the initial state; empty where not given."""
    (batch, length, heads, width), size = x.shape, B.shape[3]
    number, options = blocks(x, B)
    grad_x = torch.empty_like(x)
    grad_d, grad_decay = d.new_empty(2, number, batch, length, heads)
    grad_B, grad_C = d.new_empty(2, number, batch, length, heads, size)
    grad_D = None if D is None else d.new_empty(batch, heads, width)
    grad_z = None if z is None else torch.empty_like(z)
    grad_initial = None if initial is None else torch.empty_like(initial)
    launch(
        step_backward_kernel,
        (batch * heads, number),
        x=x,
        d=d,
        decay=decay,
        B=B,
        C=C,
        D=D,
        z=z,
        reset=reset,
        initial=initial,
        last=last,
        grad_y=grad_y,
        grad_last=grad_last,
        grad_x=grad_x,
        grad_d=grad_d,
        grad_decay=grad_decay,
        grad_B=grad_B,
        grad_C=grad_C,
        grad_D=grad_D,
        grad_z=grad_z,
        grad_initial=grad_initial,
        **options,
    )
    return (
        grad_x,
        grad_d.sum(0),
        grad_decay.sum(0),
        over_heads(grad_B, B),
        over_heads(grad_C, C),
        d.new_empty(0) if grad_D is None else grad_D.sum(0),
        d.new_empty(0) if grad_z is None else grad_z,
        d.new_empty(0) if grad_initial is None else grad_initial,
    )


def _save(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx, *grads) -> tuple:
    *inputs, last = ctx.saved_tensors
    grad_y, grad_last = (None if g is None else g.contiguous() for g in grads)
    grad_y = torch.zeros_like(inputs[0]) if grad_y is None else grad_y
    *found, initial = _backward(grad_y, grad_last, *inputs, last)
    found = [*found, None, initial]  # none for the resets
    return tuple(None if x is None else g for x, g in zip(inputs, found, strict=True))


step.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def step_kernel(
    x,
    d,
    decay,
    B,
    C,
    D,
    z,
    reset,
    initial,
    y,
    last,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """h = e^l initial + d x B^T, y = (h C + D x) silu(z): one head of one row, a block of p."""
    state, head = tl.program_id(0).to(tl.int64), tl.program_id(0) % HEADS
    row = state // HEADS
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    B_at = (row * GROUPS + head // (HEADS // GROUPS)) * SIZE

    h = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    if initial is not None:
        h = tl.exp(tl.load(decay + state)) * load_state(initial, state, p, n, WIDTH, SIZE)
    if reset is not None:
        h = tl.where(tl.load(reset + row), 0.0, h)
    x_p = tl.load(x + state * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
    B_n = tl.load(B + B_at + n, mask=n < SIZE, other=0.0).to(tl.float32)
    C_n = tl.load(C + B_at + n, mask=n < SIZE, other=0.0).to(tl.float32)
    X = tl.load(d + state) * x_p
    h += X[:, None] * B_n[None, :]
    out = tl.sum(h * C_n[None, :], 1)
    if D is not None:
        out += tl.load(D + head * WIDTH + p, mask=p < WIDTH, other=0.0) * x_p
    if z is not None:
        z_p = tl.load(z + state * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
        out *= z_p * tl.sigmoid(z_p)
    tl.store(y + state * WIDTH + p, out, mask=p < WIDTH)
    store_state(last, state, p, n, h, WIDTH, SIZE)


@triton.jit
def step_backward_kernel(
    x,
    d,
    decay,
    B,
    C,
    D,
    z,
    reset,
    initial,
    last,
    grad_y,
    grad_last,
    grad_x,
    grad_d,
    grad_decay,
    grad_B,
    grad_C,
    grad_D,
    grad_z,
    grad_initial,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """With h = last, its gradient g and gp = gy silu(z):

        g  = the gradient that `last` got + gp C^T
        gX = g B               gx = d gX + D gp       gd = <gX, x>       gB = g^T X
        gC = h^T gp            gz = gy (h C + D x) silu'(z)              gD = gp x
        gl = e^l <g, initial>  grad_initial = e^l g,  both 0 at a reset

    gd, gl, gB and gC are those of the block of p.
    """
    state, head = tl.program_id(0).to(tl.int64), tl.program_id(0) % HEADS
    row = state // HEADS
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    B_at = (row * GROUPS + head // (HEADS // GROUPS)) * SIZE
    part = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + state

    d_t = tl.load(d + state)
    x_p = tl.load(x + state * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
    B_n = tl.load(B + B_at + n, mask=n < SIZE, other=0.0).to(tl.float32)
    C_n = tl.load(C + B_at + n, mask=n < SIZE, other=0.0).to(tl.float32)
    gp = tl.load(grad_y + state * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
    h = load_state(last, state, p, n, WIDTH, SIZE)
    D_p = tl.zeros((BLOCK_P,), tl.float32)
    if D is not None:
        D_p = tl.load(D + head * WIDTH + p, mask=p < WIDTH, other=0.0)
    if z is not None:
        z_p = tl.load(z + state * WIDTH + p, mask=p < WIDTH, other=0.0).to(tl.float32)
        s = tl.sigmoid(z_p)
        out = tl.sum(h * C_n[None, :], 1) + D_p * x_p
        gz = gp * out * s * (1.0 + z_p * (1.0 - s))
        tl.store(grad_z + state * WIDTH + p, gz, mask=p < WIDTH)
        gp *= z_p * s
    tl.store(grad_C + part * SIZE + n, tl.sum(gp[:, None] * h, 0), mask=n < SIZE)

    g = gp[:, None] * C_n[None, :]
    if grad_last is not None:
        g += load_state(grad_last, state, p, n, WIDTH, SIZE)
    gX = tl.sum(g * B_n[None, :], 1)
    tl.store(grad_x + state * WIDTH + p, d_t * gX + D_p * gp, mask=p < WIDTH)
    if D is not None:
        tl.store(grad_D + state * WIDTH + p, gp * x_p, mask=p < WIDTH)
    tl.store(grad_d + part, tl.sum(gX * x_p, 0))
    gB = tl.sum((d_t * x_p)[:, None] * g, 0)
    tl.store(grad_B + part * SIZE + n, gB, mask=n < SIZE)

    gl = 0.0
    if initial is not None:
        g *= tl.exp(tl.load(decay + state))
        past = g * load_state(initial, state, p, n, WIDTH, SIZE)
        if reset is not None:
            g = tl.where(tl.load(reset + row), 0.0, g)
            past = tl.where(tl.load(reset + row), 0.0, past)
        gl = tl.sum(past)
        store_state(grad_initial, state, p, n, g, WIDTH, SIZE)
    tl.store(grad_decay + part, gl)
