"""The selective scan on a GPU: a program has the states of some channels of one row in registers.

It walks the row from the first step to the last, so that a reset, an initial state and a state to
emit cost next to nothing. The backward walks from the last step to the first and needs the states
again: the forward stores one in `_CHUNK`, and the backward recomputes a chunk of them into
registers at a time.

What is summed over channels or rows, and so over programs, is stored in one part per program and
summed by torch: there are no atomics, and two runs agree bit for bit.
"""

# The types of Triton's language describe what the compiler sees, not what Python does.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodels.kernels.launch import DTYPES, launch, learns, operator
from worldmodels.kernels.sequence import Emit, requests

_CHUNK = 8
"""Steps from one stored state to the next."""
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.selective_scan.selective_scan`."""
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    inputs = [x for x in inputs if x is not None]
    if wrong := {x.dtype for x in inputs} - set(DTYPES):
        raise ValueError(
            f"selective_scan: the Triton kernel takes no {wrong.pop()}; "
            'choose implementation="eager"'
        )
    (batch, length, _), order, offsets = u.shape, None, None
    if emit is not None:
        order, offsets = requests(emit, batch, length, u.device)
    y, last, emitted, _ = _forward(
        _dense(u),
        _dense(delta),
        _dense(A, torch.float32),
        _dense(B),
        _dense(C),
        _dense(D, torch.float32),
        _dense(z),
        _dense(delta_bias, torch.float32),
        _dense(initial_state, torch.float32),
        _dense(reset),
        order,
        offsets,
        delta_softplus,
        learns(inputs),
    )
    return y, last, None if emit is None else emitted


def _dense(x: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    return None if x is None else x.to(dtype or x.dtype).contiguous()


@operator("selective_scan")
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    reset: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    softplus: bool,
    store: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, the emitted states, and the states after steps 8, 16, ... to `store`.

    A state that nothing follows is not stored.
    """
    (batch, length, width), size = u.shape, int(A.shape[1])  # a number in a graph of symbols too
    # Eight values of the state a thread. With N <= 16 a program is one warp, which waits for no
    # other; a single step is memory traffic and little else, and takes larger programs.
    block_n = triton.next_power_of_2(size)
    block_i = max(1024 // block_n, 1) if length == 1 else min(max(256 // block_n, 16), 64)
    y = torch.empty_like(u)
    last = A.new_empty(batch, width, size)
    emitted = A.new_empty(0 if order is None else order.shape[0], width, size)
    stored = A.new_empty(batch, (length - 1) // _CHUNK if store else 0, width, size)
    launch(
        _forward_kernel,
        (batch, triton.cdiv(width, block_i)),
        warps=max(block_i * block_n // 256, 1),
        u=u,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        initial=initial,
        reset=reset,
        order=order,
        offsets=offsets,
        y=y,
        last=last,
        emitted=emitted,
        stored=stored if stored.shape[1] else None,
        length=length,
        width=width,
        SIZE=size,
        SOFTPLUS=softplus,
        CHUNK=_CHUNK,
        BLOCK_I=block_i,
        BLOCK_N=block_n,
    )
    return y, last, emitted, stored


@operator("selective_scan_backward")
def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    grad_emitted: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial: Tensor | None,
    reset: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    stored: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first nine inputs of the forward; empty for those that are absent."""
    (batch, length, width), size = u.shape, int(A.shape[1])
    # Four values of the state a thread: those of a chunk of steps fit into registers. As many
    # channels as that allows: each program stores its part of the gradients of B and C.
    block_n = triton.next_power_of_2(size)
    block_i = min(max(1024 // block_n, 1), 32)
    blocks = triton.cdiv(width, block_i)
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grad_A = A.new_empty(batch, width, size)
    grad_B, grad_C = (A.new_empty(blocks, batch, length, size) for _ in range(2))
    grad_D = None if D is None else A.new_empty(batch, width)
    grad_z = None if z is None else torch.empty_like(z)
    grad_bias = None if delta_bias is None else A.new_empty(batch, width)
    grad_initial = None if initial is None else torch.empty_like(initial)
    launch(
        _backward_kernel,
        (batch, blocks),
        warps=max(block_i * block_n // 128, 1),
        u=u,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        initial=initial,
        reset=reset,
        order=order if grad_emitted is not None else None,
        offsets=offsets if grad_emitted is not None else None,
        stored=stored if stored.shape[1] else None,
        grad_y=grad_y,
        grad_last=grad_last,
        grad_emitted=grad_emitted,
        grad_u=grad_u,
        grad_delta=grad_delta,
        grad_A=grad_A,
        grad_B=grad_B,
        grad_C=grad_C,
        grad_D=grad_D,
        grad_z=grad_z,
        grad_bias=grad_bias,
        grad_initial=grad_initial,
        length=length,
        width=width,
        SIZE=size,
        SOFTPLUS=softplus,
        CHUNK=1 if length == 1 else _CHUNK,
        BLOCK_I=block_i,
        BLOCK_N=block_n,
    )
    return (
        grad_u,
        grad_delta,
        grad_A.sum(0),
        grad_B.sum(0).to(B.dtype),
        grad_C.sum(0).to(C.dtype),
        A.new_empty(0) if grad_D is None else grad_D.sum(0),
        A.new_empty(0) if grad_z is None else grad_z,
        A.new_empty(0) if grad_bias is None else grad_bias.sum(0),
        A.new_empty(0) if grad_initial is None else grad_initial,
    )


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[3])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_y, grad_last, grad_emitted, _) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(inputs[0])
    grads = (_dense(grad_y), _dense(grad_last), _dense(grad_emitted))
    found = _backward(*grads, *inputs, ctx.softplus)
    found = [None if x is None else g for x, g in zip(inputs[:9], found, strict=True)]
    return *found, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def _softplus(x):
    # Beyond 20 it is x in float32, and exp2 overflows in the end.
    return tl.where(x > 20.0, x, tl.log2(1.0 + tl.exp2(x * _LOG2E)) * _LN2)


@triton.jit
def _load_channels(x, i, width):
    """x[i], or zeros if there is no x."""
    found = tl.zeros(i.shape, tl.float32)
    if x is not None:
        found = tl.load(x + i, mask=i < width, other=0.0)
    return found


@triton.jit
def _load_state(x, at, cell, inside):
    """The state that begins at x[at], or zeros if there is no x."""
    found = tl.zeros(cell.shape, tl.float32)
    if x is not None:
        found = tl.load(x + at + cell, mask=inside, other=0.0)
    return found


@triton.jit
def _load_step(inputs, step, bias_i, i, n, width, SIZE: tl.constexpr):
    """Inputs of the step b T + t, delta with its bias; u stands in for those that are absent."""
    u, delta, B, C, z, reset, grad_y = inputs
    at = step * width + i
    u_t = tl.load(u + at, mask=i < width, other=0.0).to(tl.float32)
    s_t = tl.load(delta + at, mask=i < width, other=0.0).to(tl.float32) + bias_i
    B_t = tl.load(B + step * SIZE + n, mask=n < SIZE, other=0.0).to(tl.float32)
    C_t = tl.load(C + step * SIZE + n, mask=n < SIZE, other=0.0).to(tl.float32)
    z_t, reset_t, gy_t = u_t, False, u_t
    if z is not None:
        z_t = tl.load(z + at, mask=i < width, other=0.0).to(tl.float32)
    if reset is not None:
        reset_t = tl.load(reset + step)
    if grad_y is not None:
        gy_t = tl.load(grad_y + at, mask=i < width, other=0.0).to(tl.float32)
    return u_t, s_t, B_t[None, :], C_t[None, :], z_t, reset_t, gy_t


@triton.jit
def _forward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    initial,
    reset,
    order,
    offsets,
    y,
    last,
    emitted,
    stored,
    length,
    width,
    SIZE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One row of the batch, one block of channels i and all states n of these. Every step t:

        h_t = exp(d_t A) h_{t-1} + d_t u_t B_t,   with h_{t-1} = 0 at a reset
        y_t = (sum_n h_t C_t + D u_t) silu(z_t)

    h is [i, n]; u, z and d = delta + delta_bias, or its softplus, are [i]; B and C are [n].
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    n = tl.arange(0, BLOCK_N)
    cell = i[:, None] * SIZE + n[None, :]
    inside = (i < width)[:, None] & (n < SIZE)[None, :]
    state = width * SIZE  # numbers in the state of one row

    inputs = (u, delta, B, C, z, reset, None)
    rate = tl.load(A + cell, mask=inside, other=0.0) * _LOG2E
    bias_i = _load_channels(delta_bias, i, width)
    D_i = _load_channels(D, i, width)
    h = _load_state(initial, row * state, cell, inside)

    first = row * length
    # A step is loaded while the one before it is calculated.
    ahead = _load_step(inputs, first, bias_i, i, n, width, SIZE)
    for t in range(length):
        u_t, d, B_t, C_t, z_t, reset_t, _ = ahead
        after = first + tl.minimum(t + 1, length - 1)
        ahead = _load_step(inputs, after, bias_i, i, n, width, SIZE)

        if SOFTPLUS:
            d = _softplus(d)
        if reset is not None:
            h = tl.where(reset_t, 0.0, h)
        h = tl.exp2(d[:, None] * rate) * h + (d * u_t)[:, None] * B_t
        p = tl.sum(h * C_t, 1) + D_i * u_t
        if z is not None:
            p *= z_t * tl.sigmoid(z_t)
        tl.store(y + (first + t) * width + i, p, mask=i < width)

        if order is not None:
            # Not a range, which the compiler would unroll, at a price in registers.
            k = tl.load(offsets + first + t)
            while k < tl.load(offsets + first + t + 1):
                to = tl.load(order + k).to(tl.int64) * state
                tl.store(emitted + to + cell, h, mask=inside)
                k += 1
        if stored is not None and (t + 1) % CHUNK == 0 and t + 1 < length:
            to = (row * ((length - 1) // CHUNK) + t // CHUNK) * state
            tl.store(stored + to + cell, h, mask=inside)
    tl.store(last + row * state + cell, h, mask=inside)


@triton.jit
def _backward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    initial,
    reset,
    order,
    offsets,
    stored,
    grad_y,
    grad_last,
    grad_emitted,
    grad_u,
    grad_delta,
    grad_A,
    grad_B,
    grad_C,
    grad_D,
    grad_z,
    grad_bias,
    grad_initial,
    length,
    width,
    SIZE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The same row and channels from the last step to the first; g is the gradient of h_t.

    With p_t = sum_n h_t C_t + D u_t, which the gate multiplies, gp_t its gradient, and
    sigma_t = sigmoid(z_t):

        gp_t = gy_t z_t sigma_t                gz_t = gy_t p_t sigma_t (1 + z_t (1 - sigma_t))
        g   += gp_t C_t + the gradient of h_t where it was emitted
        gC_t = sum_i gp_t h_t                  gB_t = sum_i d_t u_t g
        w    = g exp(d_t A) h_{t-1}            which is the gradient of d_t A
        gd_t = sum_n w A + u_t sum_n g B_t     gu_t = d_t sum_n g B_t + D gp_t
        gA  += d_t w                           gD  += u_t gp_t
        g    = g exp(d_t A)                    or 0 at a reset

    gdelta_t is gd_t, times sigmoid(delta_t + delta_bias) under the softplus. A reset sets h_{t-1}
    to 0 in w alone: gC_{t-1} takes that state as it was.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    n = tl.arange(0, BLOCK_N)
    cell = i[:, None] * SIZE + n[None, :]
    inside = (i < width)[:, None] & (n < SIZE)[None, :]
    state = width * SIZE

    inputs = (u, delta, B, C, z, reset, grad_y)
    rate = tl.load(A + cell, mask=inside, other=0.0) * _LOG2E
    bias_i = _load_channels(delta_bias, i, width)
    D_i = _load_channels(D, i, width)
    g = _load_state(grad_last, row * state, cell, inside)
    gA = tl.zeros((BLOCK_I, BLOCK_N), tl.float32)
    gD = tl.zeros((BLOCK_I,), tl.float32)
    gbias = tl.zeros((BLOCK_I,), tl.float32)

    part = tl.program_id(1).to(tl.int64) * tl.num_programs(0) * length
    chunks = (length + CHUNK - 1) // CHUNK
    for chunk in range(chunks - 1, -1, -1):
        first = row * length + chunk * CHUNK
        left = length - chunk * CHUNK
        h = _load_state(initial, row * state, cell, inside)
        if stored is not None and chunk > 0:
            h = _load_state(stored, (row * (chunks - 1) + chunk - 1) * state, cell, inside)

        # The state before each step of the chunk, and that after its last. Where the chunk is
        # longer than what is left of time, the last step is repeated and the result not used.
        states = (h,)
        for k in tl.static_range(CHUNK):
            step = first + tl.minimum(k, left - 1)
            u_t, d, B_t, _, _, reset_t, _ = _load_step(inputs, step, bias_i, i, n, width, SIZE)
            if SOFTPLUS:
                d = _softplus(d)
            if reset is not None:
                h = tl.where(reset_t, 0.0, h)
            h = tl.exp2(d[:, None] * rate) * h + (d * u_t)[:, None] * B_t
            states += (h,)

        for k in tl.static_range(CHUNK - 1, -1, -1):
            if k < left:
                u_t, s_t, B_t, C_t, z_t, reset_t, gy_t = _load_step(
                    inputs, first + k, bias_i, i, n, width, SIZE
                )
                d = s_t
                if SOFTPLUS:
                    d = _softplus(s_t)
                gp = gy_t
                if z is not None:
                    p = tl.sum(states[k + 1] * C_t, 1) + D_i * u_t
                    sigma = tl.sigmoid(z_t)
                    gz = gy_t * p * sigma * (1.0 + z_t * (1.0 - sigma))
                    tl.store(grad_z + (first + k) * width + i, gz, mask=i < width)
                    gp = gy_t * z_t * sigma
                gC = tl.sum(gp[:, None] * states[k + 1], 0)
                tl.store(grad_C + (part + first + k) * SIZE + n, gC, mask=n < SIZE)
                g += gp[:, None] * C_t
                if order is not None:
                    m = tl.load(offsets + first + k)
                    while m < tl.load(offsets + first + k + 1):
                        at = tl.load(order + m).to(tl.int64) * state
                        g += _load_state(grad_emitted, at, cell, inside)
                        m += 1
                gB = tl.sum((d * u_t)[:, None] * g, 0)
                tl.store(grad_B + (part + first + k) * SIZE + n, gB, mask=n < SIZE)
                gx = tl.sum(g * B_t, 1)  # of d_t u_t
                g *= tl.exp2(d[:, None] * rate)
                w = g * states[k]
                if reset is not None:
                    w = tl.where(reset_t, 0.0, w)
                    g = tl.where(reset_t, 0.0, g)
                gA += d[:, None] * w
                gD += u_t * gp
                gd = tl.sum(w * rate, 1) * _LN2 + u_t * gx
                if SOFTPLUS:
                    gd *= tl.sigmoid(s_t)
                gbias += gd
                to = (first + k) * width + i
                tl.store(grad_u + to, d * gx + D_i * gp, mask=i < width)
                tl.store(grad_delta + to, gd, mask=i < width)

    tl.store(grad_A + row * state + cell, gA, mask=inside)
    if D is not None:
        tl.store(grad_D + row * width + i, gD, mask=i < width)
    if delta_bias is not None:
        tl.store(grad_bias + row * width + i, gbias, mask=i < width)
    if initial is not None:
        tl.store(grad_initial + row * state + cell, g, mask=inside)
