"""Mamba-3 against its recurrence, written out twice: with turning keys, with a complex state."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.backbones.base import Emit, State
from worldmodels.backbones.configs import Mamba3Options
from worldmodels.backbones.mamba3 import Mamba3, add_turns, heavy_tail, segmented_cumsum
from worldmodels.backbones.testing import check_backbone

SMALL = Mamba3Options(heads=4, state=6, groups=2, rotated=0.7, chunk=4)
WIDTH, B = 6, 3


def build(config: Mamba3Options = SMALL, dtype: torch.dtype = torch.float64) -> Mamba3:
    """Random parameters; rotations of about N(0, 1) before the tanh, delta about 1."""
    model = Mamba3(config, WIDTH).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=WIDTH**-0.5 if "proj" in name else 1.0)
        model.dt_bias.normal_(mean=0.5, std=0.3)
    return model


def draw(model: Mamba3, length: int) -> tuple[Tensor, State, Tensor]:
    """Inputs, a state with every leaf random, resets in a fifth of the rows."""
    dtype = model.D.dtype
    leaves = {k: torch.randn(B, *spec.shape) for k, spec in model.state_spec().items()}
    leaves["angle"] = torch.rand_like(leaves["angle"]) - 0.5
    state = State({k: leaf.to(dtype) for k, leaf in leaves.items()})
    return torch.randn(B, length, WIDTH, dtype=dtype), state, torch.rand(B, length) < 0.2


def read(model: Mamba3, u: Tensor) -> dict[str, Tensor]:
    """What u [B, D] is projected to, cut and squashed as in the paper; omega is in radians."""
    config, p = model.config, u @ model.in_proj.weight.T
    heads, groups, size = config.heads, config.groups, config.state
    inner, pairs = config.expand * WIDTH, int(config.rotated * size) // 2
    sizes = [inner, inner, groups * size, groups * size, heads, heads, heads, pairs]
    z, x, b, c, d, a, t, th = p.split(sizes, 1)

    def normed(v: Tensor, weight: Tensor) -> Tensor:
        v = v.view(-1, groups, size)
        return v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    delta = (1 + (d + model.dt_bias).exp()).log()
    rate = torch.where(a >= 0, 1 + a, 1 / (1 - a))
    share = 1 / (1 + (-t).exp())
    return {
        "z": z.view(-1, heads, inner // heads),
        "x": x.view(-1, heads, inner // heads),
        "b": normed(b, model.B_norm.weight),
        "c": normed(c, model.C_norm.weight),
        "alpha": (-delta * rate.clamp(min=1e-4)).exp(),
        "gamma": share * delta,
        "nu": (1 - share) * delta,
        "omega": math.pi * torch.tanh(th)[:, None] * delta[:, :, None],
    }


def per_head(model: Mamba3, v: Tensor, bias: Tensor) -> Tensor:
    """[B, G, N] -> [B, H, N]: head h reads group h // (H / G)."""
    share = model.config.heads // model.config.groups
    return torch.stack([v[:, h // share] + bias[h, 0] for h in range(model.config.heads)], 1)


def turned(v: Tensor, phi: Tensor) -> Tensor:
    """Pairs (i, i + N / 2) of v [B, H, N] turned by phi [B, H, J]."""
    out, half = v.clone(), v.shape[-1] // 2
    for i in range(phi.shape[-1]):
        cos, sin = phi[..., i].cos(), phi[..., i].sin()
        out[..., i] = v[..., i] * cos - v[..., i + half] * sin
        out[..., i + half] = v[..., i] * sin + v[..., i + half] * cos
    return out


def finish(model: Mamba3, y: Tensor, row: dict[str, Tensor]) -> Tensor:
    y = y + model.D[:, None] * row["x"]
    gated = y * row["z"] / (1 + (-row["z"]).exp())
    return gated.reshape(y.shape[0], -1) @ model.out_proj.weight.T


def absolute(model: Mamba3, u: Tensor, state: State, reset: Tensor) -> tuple[Tensor, list[State]]:
    """S_t = alpha S + alpha nu x_{t-1} k_{t-1}^T + gamma x_t k_t^T with keys that turn."""
    phi, s, b, x = 2 * math.pi * state["angle"], state["ssm"], state["b"], state["x"]
    outputs, states = [], []
    for t in range(u.shape[1]):
        phi, s, b, x = (
            torch.where(reset[:, t].view(-1, *[1] * (v.ndim - 1)), 0.0, v) for v in (phi, s, b, x)
        )
        row = read(model, u[:, t])
        before = turned(per_head(model, b, model.B_bias), phi)
        phi = phi + row["omega"]
        key = turned(per_head(model, row["b"], model.B_bias), phi)
        query = turned(per_head(model, row["c"], model.C_bias), phi)
        alpha, gamma, nu = (row[k][..., None, None] for k in ("alpha", "gamma", "nu"))
        s = alpha * s + alpha * nu * x[..., None] * before[:, :, None]
        s = s + gamma * row["x"][..., None] * key[:, :, None]
        b, x = row["b"], row["x"]
        outputs.append(finish(model, torch.einsum("bhpn,bhn->bhp", s, query), row))
        states.append(State({"angle": phi / (2 * math.pi), "ssm": s, "b": b, "x": x}))
    return torch.stack(outputs, 1), states


def rotating(model: Mamba3, u: Tensor, state: State, reset: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = alpha e^{-i omega} (h + nu x_{t-1} k_{t-1}) + gamma x_t k_t: a complex SSM, no angle.

    Returns outputs and the last h [B, H, P, J + rest], the rotated pairs first.
    """
    pairs, half = model.pairs, model.config.state // 2
    rest = [i for i in range(model.config.state) if not (i < pairs or half <= i < half + pairs)]

    def paired(v: Tensor) -> Tensor:
        first = torch.complex(v[..., :pairs], v[..., half : half + pairs])
        return torch.cat([first, v[..., rest].to(first.dtype)], -1)

    def phase(angle: Tensor) -> Tensor:
        return F.pad(angle, (0, len(rest))).mul(-1j).exp()

    h = paired(state["ssm"]) * phase(2 * math.pi * state["angle"])[:, :, None]
    b, x, outputs = state["b"], state["x"], []
    for t in range(u.shape[1]):
        h, b, x = (torch.where(reset[:, t].view(-1, *[1] * (v.ndim - 1)), 0, v) for v in (h, b, x))
        row = read(model, u[:, t])
        before = paired(per_head(model, b, model.B_bias))
        key = paired(per_head(model, row["b"], model.B_bias))
        query = paired(per_head(model, row["c"], model.C_bias))
        h = h + row["nu"][..., None, None] * x[..., None] * before[:, :, None]
        h = row["alpha"][..., None, None] * phase(row["omega"])[:, :, None] * h
        h = h + row["gamma"][..., None, None] * row["x"][..., None] * key[:, :, None]
        b, x = row["b"], row["x"]
        y = torch.einsum("bhpn,bhn->bhp", h, query.conj()).real
        outputs.append(finish(model, y, row))
    return torch.stack(outputs, 1), h


def same_state(found: State, expected: State) -> None:
    """Angles are compared on the circle."""
    assert found.keys() == expected.keys()
    apart = found["angle"] - expected["angle"]
    assert (found["angle"].abs() <= 0.5).all()
    torch.testing.assert_close(apart, apart.round(), rtol=0, atol=1e-10)
    for name in ("ssm", "b", "x"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


CASES = {
    "two groups": SMALL,
    "one group, half rotated": Mamba3Options(heads=3, state=8, chunk=3),
    "all rotated, odd state": Mamba3Options(heads=2, state=5, rotated=1.0, chunk=1),
    "nothing rotated": replace(SMALL, rotated=0.0),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("length", [1, 2, 13])
def test_sequence_is_the_recurrence(config, length):
    model = build(config)
    u, state, reset = draw(model, length)
    expected, states = absolute(model, u, state, reset)
    picked = torch.stack([torch.randint(B, (9,)), torch.randint(length, (9,))], 1)
    every = torch.cartesian_prod(torch.arange(B), torch.arange(length))
    emits: list[tuple[Emit, Tensor]] = [("all", every), (picked, picked)]
    for emit, rows in emits:
        h, last, emitted = model.sequence(u, state, reset, emit)
        torch.testing.assert_close(h, expected, rtol=1e-10, atol=1e-10)
        same_state(last, states[-1])
        assert emitted is not None
        same_state(emitted, State.cat([states[int(t)].index(b[None]) for b, t in rows]))


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_sequence_is_the_complex_system(config):
    model = build(config)
    u, state, reset = draw(model, 13)
    expected, last = rotating(model, u, state, reset)
    torch.testing.assert_close(model.sequence(u, state, reset)[0], expected, rtol=1e-10, atol=1e-10)
    # A second half that starts from the leaves of the first, as another window would.
    first = model.sequence(u[:, :6], state, reset[:, :6])
    second = model.sequence(u[:, 6:], first[1], reset[:, 6:])
    joined = torch.cat([first[0], second[0]], 1)
    torch.testing.assert_close(joined, expected, rtol=1e-10, atol=1e-10)
    size = second[1]["ssm"].square().sum((-1, -2))
    torch.testing.assert_close(size, last.abs().square().sum((-1, -2)), rtol=1e-10, atol=1e-10)


def test_step_is_the_recurrence():
    model = build()
    u, state, reset = draw(model, 1)
    for cut in (reset, torch.ones_like(reset), torch.zeros_like(reset)):
        expected, states = absolute(model, u, state, cut)
        h, after = model.step(u[:, 0], state, cut[:, 0])
        torch.testing.assert_close(h, expected[:, 0], rtol=1e-10, atol=1e-10)
        same_state(after, states[0])


def test_parameters_get_the_gradient_of_the_recurrence():
    model = build()
    u, state, reset = draw(model, 9)
    h, last, emitted = model.sequence(u, state, reset, "all")
    expected, states = absolute(model, u, state, reset)
    weight, way = torch.randn_like(h), torch.randn_like(last["ssm"])
    assert emitted is not None
    found = (h * weight).sum() + (emitted["ssm"].unflatten(0, (B, -1)) * way[:, None]).sum()
    wanted = (expected * weight).sum() + sum((s["ssm"] * way).sum() for s in states)
    parameters = list(model.parameters())
    grads = (torch.autograd.grad(total, parameters) for total in (found, wanted))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunks_change_nothing_and_float32_is_close(chunk):
    model = build()
    u, state, reset = draw(model, 70)
    h, last, _ = model.sequence(u, state, reset)
    other = Mamba3(replace(SMALL, chunk=chunk), WIDTH).double()
    other.load_state_dict(model.state_dict())
    found = other.sequence(u, state, reset)
    torch.testing.assert_close(found[0], h, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found[1]["ssm"], last["ssm"], rtol=1e-11, atol=1e-11)
    narrow = other.float().sequence(u.float(), state.map(Tensor.float), reset)[0]
    assert (narrow - h).abs().max() < 1e-5 * h.abs().max()


def test_angles_lose_no_digits_over_many_turns():
    turn = torch.randn(2, 4000, 1, 2) * 0.4 + 0.3
    reset = torch.zeros(2, 4000, dtype=torch.bool)
    start = torch.rand(2, 1, 2) - 0.5
    found = add_turns(turn, start, reset)
    apart = found - (turn.double().cumsum(1) + start.unsqueeze(1))
    assert (apart - apart.round()).abs().max() < 1e-5
    assert found.abs().max() <= 0.5


def test_sums_restart_at_resets():
    x = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    reset = torch.tensor([[False, False, True, False, True, True]])
    assert segmented_cumsum(x, reset).tolist() == [[1, 3, 3, 7, 5, 6]]
    assert segmented_cumsum(x[..., None], ~reset | True)[..., 0].tolist() == x.tolist()


def test_heavy_tail():
    a = torch.tensor([-9.0, -1.0, 0.0, 1.0, 3.0], requires_grad=True)
    f = heavy_tail(a)
    f.sum().backward()
    assert f.tolist() == pytest.approx([0.1, 0.5, 1, 2, 4])
    assert a.grad is not None
    assert a.grad.tolist() == pytest.approx([0.01, 0.25, 1, 1, 1])


def test_one_row_remembers_what_the_last_one_left():
    """With nothing to write itself (gamma = 0), a row still writes the value and key before."""
    model = build()
    u, state, _ = draw(model, 1)
    no = torch.zeros(B, 1, dtype=torch.bool)
    h = model.sequence(u, state, no)[0]
    for leaf in ("angle", "ssm", "b", "x"):
        other = State({**state, leaf: state[leaf] + 0.1})
        assert (model.sequence(u, other, no)[0] - h).abs().max() > 1e-4, leaf


@pytest.mark.parametrize(
    ("size", "parameters", "kib"), [(16, 1_616_448, 137), (64, 1_673_376, 522)]
)
def test_sizes_and_initial_values(size, parameters, kib):
    """D = 512, expand 2, P = 64; the counts and bytes of the reference."""
    model = Mamba3(Mamba3Options(heads=16, state=size), 512)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert int(2 * model.initial(1).nbytes_per_row / 1024 + 0.5) == pytest.approx(kib, abs=1)
    delta = F.softplus(model.dt_bias.detach())
    assert 1e-3 * 0.999 <= float(delta.min()) <= float(delta.max()) <= 1e-1 * 1.001
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["B_bias"] == shapes["C_bias"] == (16, 1, size)
    assert shapes["B_norm.weight"] == (size,)
    for p in (model.B_bias, model.C_bias, model.D, model.B_norm.weight, model.C_norm.weight):
        assert (p == 1).all()
    assert not any(leaf.any() for leaf in model.initial(1).values())


def test_states_stay_float32_under_autocast():
    model = build(dtype=torch.float32)
    u, state, reset = draw(model, 9)
    h = model.sequence(u, state, reset)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half, last, emitted = model.sequence(u, state, reset, "all")
        _, after = model.step(u[:, 0], state, None)
    assert emitted is not None
    for found in (last, emitted, after):
        assert {leaf.dtype for leaf in found.values()} == {torch.float32}
    assert (half.float() - h).abs().max() < 0.1 * h.abs().max()


def test_nothing_is_read_on_the_host():
    """Meta tensors have shapes and no values."""
    with torch.device("meta"):
        model = Mamba3(SMALL, WIDTH)
        u, reset = torch.zeros(B, 9, WIDTH), torch.zeros(B, 9, dtype=torch.bool)
        picked = torch.zeros(5, 2, dtype=torch.int64)
        h, last, emitted = model.sequence(u, model.initial(B), reset, picked)
        model.step(u[:, 0], last, reset[:, 0])
    assert emitted is not None
    assert (h.shape, emitted["ssm"].shape) == ((B, 9, WIDTH), (5, 4, 3, 6))


@pytest.mark.parametrize("config", [SMALL, CASES["all rotated, odd state"]])
def test_the_layer_obeys_every_law(config):
    assert len(check_backbone(Mamba3, config, WIDTH)) == 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "inner width 12 is no multiple of heads 5"),
        ({"groups": 3}, "heads 4 is no multiple of groups 3"),
        ({"state": 0}, "state is 0, below 1"),
        ({"rotated": 1.5}, "rotated is a share from 0 to 1, not 1.5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Mamba3(replace(SMALL, **change), WIDTH)
