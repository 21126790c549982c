"""Gated DeltaNet against its recurrence, row by row, in float64."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.backbones.base import Emit, State
from worldmodels.backbones.configs import DeltaNetOptions
from worldmodels.backbones.deltanet import (
    EMITTED_ROWS,
    GatedDeltaNet,
    Tokens,
    delta_rule,
    emitted_states,
)
from worldmodels.backbones.testing import check_backbone

SMALL = DeltaNetOptions(heads=3, key=4, conv=3, chunk=4)
WIDTH, B = 6, 3
NEVER = torch.zeros(1, 1, dtype=torch.bool)


def build(config: DeltaNetOptions = SMALL, dtype: torch.dtype = torch.float64) -> GatedDeltaNet:
    """Random parameters, with decays between nothing and most of the state."""
    model = GatedDeltaNet(config, WIDTH).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=WIDTH**-0.5 if "proj" in name else 1.0)
    return model


def draw(model: GatedDeltaNet, length: int) -> tuple[Tensor, State, Tensor]:
    """Inputs, a state with every leaf random, resets in a fifth of the rows."""
    dtype = model.A_log.dtype
    leaves = {k: torch.randn(B, *spec.shape, dtype=dtype) for k, spec in model.state_spec().items()}
    u = torch.randn(B, length, WIDTH, dtype=dtype)
    return u, State(leaves), torch.rand(B, length) < 0.2


def recurrent(
    model: GatedDeltaNet, u: Tensor, state: State, reset: Tensor
) -> tuple[Tensor, list[State]]:
    """S' = e^g S; S = S' + k (beta (v - S'^T k))^T; y = S^T q / sqrt(K), and what stands around."""
    config, window, s = model.config, state["conv"], state["s"]
    heads, size, width = config.heads, config.key, WIDTH // config.heads
    sizes = [heads * size, heads * size, WIDTH, WIDTH, heads, heads]
    outputs, states = [], []
    for t in range(u.shape[1]):
        window = torch.where(reset[:, t, None, None], 0.0, window)
        s = torch.where(reset[:, t, None, None, None], 0.0, s)
        q, k, v, gate, a, b = (u[:, t] @ model.in_proj.weight.T).split(sizes, 1)
        window = torch.cat([window, torch.cat([q, k, v], 1)[:, None]], 1)
        conved = torch.einsum("bwd,dw->bd", window, model.conv1d.weight[:, 0])
        window = window[:, 1:]
        q, k, v = (conved / (1 + (-conved).exp())).split(sizes[:3], 1)
        q, k = (x.view(B, heads, size) for x in (q, k))
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        g = -model.A_log.exp() * (1 + (a + model.dt_bias).exp()).log()
        beta = config.beta / (1 + (-b).exp())
        s = g.exp()[..., None, None] * s
        new = beta[..., None] * (v.view(B, heads, width) - torch.einsum("bhkv,bhk->bhv", s, k))
        s = s + k[..., None] * new[:, :, None]
        y = torch.einsum("bhkv,bhk->bhv", s, q) / math.sqrt(size)
        y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * model.norm.weight
        y = y.reshape(B, WIDTH) * gate / (1 + (-gate).exp())
        outputs.append(y @ model.out_proj.weight.T)
        states.append(State({"conv": window, "s": s}))
    return torch.stack(outputs, 1), states


def same_state(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("length", [1, 2, 13])
def test_sequence_is_the_recurrence(beta, chunk, length):
    model = build(replace(SMALL, beta=beta, chunk=chunk))
    u, state, reset = draw(model, length)
    expected, states = recurrent(model, u, state, reset)
    picked = torch.stack([torch.randint(B, (9,)), torch.randint(length, (9,))], 1)
    every = torch.cartesian_prod(torch.arange(B), torch.arange(length))
    emits: list[tuple[Emit, Tensor]] = [("all", every), (picked, picked)]
    for emit, rows in emits:
        h, last, emitted = model.sequence(u, state, reset, emit)
        torch.testing.assert_close(h, expected, rtol=1e-10, atol=1e-10)
        same_state(last, states[-1])
        assert emitted is not None
        same_state(emitted, State.cat([states[int(t)].index(b[None]) for b, t in rows]))


def test_step_is_the_recurrence():
    model = build()
    u, state, reset = draw(model, 1)
    for cut in (reset, torch.ones_like(reset), torch.zeros_like(reset)):
        expected, states = recurrent(model, u, state, cut)
        h, after = model.step(u[:, 0], state, cut[:, 0])
        torch.testing.assert_close(h, expected[:, 0], rtol=1e-10, atol=1e-10)
        same_state(after, states[0])


def test_parameters_get_the_gradient_of_the_recurrence():
    """Through h and through more emitted states than are computed as one batch."""
    model = build()
    u, state, reset = draw(model, EMITTED_ROWS // B + 2)
    h, last, emitted = model.sequence(u, state, reset, "all")
    expected, states = recurrent(model, u, state, reset)
    weight, way = torch.randn_like(h), torch.randn_like(last["s"])
    assert emitted is not None
    found = (h * weight).sum() + (emitted["s"].unflatten(0, (B, -1)) * way[:, None]).sum()
    wanted = (expected * weight).sum() + sum((s["s"] * way).sum() for s in states)
    parameters = list(model.parameters())
    grads = (torch.autograd.grad(total, parameters) for total in (found, wanted))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def tokens(keys: list[int], values: Tensor, strength: float, decay: float = 1.0) -> Tokens:
    """One head and sequence; row t writes values[t] under the unit vector keys[t]."""
    key = torch.eye(4, dtype=torch.float64)[keys][None, None]
    full = torch.ones(1, 1, len(keys), dtype=torch.float64)
    return Tokens(key, key, values[None, None], full * math.log(decay), full * strength)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_a_unit_key_with_beta_one_replaces_its_value(chunk):
    values = torch.randint(-9, 9, (5, 3)).double()  # whole numbers: not even rounding differs
    row = tokens([0, 1, 0, 2, 0], values, 1.0)
    y, state, _ = delta_rule(row, torch.zeros(1, 1, 4, 3).double(), NEVER.expand(1, 5), chunk)
    assert torch.equal(state[0, 0], torch.stack([values[4], values[1], values[3], 0 * values[0]]))
    assert torch.equal(y[0, 0], values)  # each row reads what it wrote


@pytest.mark.parametrize(("strength", "factor"), [(0.0, 0.9), (0.5, 0.45), (1.0, 0), (2.0, -0.9)])
def test_beta_above_one_turns_the_sign(strength, factor):
    """The state along k is multiplied by e^g (1 - beta), all else by e^g."""
    before = torch.randn(1, 1, 4, 3, dtype=torch.float64)
    row = tokens([1], torch.zeros(1, 3, dtype=torch.float64), strength, 0.9)
    _, after, _ = delta_rule(row, before, NEVER, 4)
    scale = torch.tensor([0.9, factor, 0.9, 0.9], dtype=torch.float64)[:, None]
    torch.testing.assert_close(after, scale * before, rtol=1e-12, atol=1e-12)


def test_states_do_not_grow_with_the_largest_beta():
    """No value to write and no decay: products of reflections, for hundreds of rows."""
    keys = F.normalize(torch.randn(1, 2, 500, 4), dim=-1)
    full = torch.ones(1, 2, 500)
    row = Tokens(keys, keys, torch.zeros(1, 2, 500, 3), 0 * full, 2 * full)
    before = torch.randn(1, 2, 4, 3)
    _, after, _ = delta_rule(row, before, NEVER.expand(1, 500), 64)
    torch.testing.assert_close(after.norm(), before.norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("chunk", [1, 16, 100])
def test_chunks_change_nothing_and_float32_is_close(chunk):
    model = build()
    u, state, reset = draw(model, 70)
    h, last, _ = model.sequence(u, state, reset)
    other = GatedDeltaNet(replace(SMALL, chunk=chunk), WIDTH).double()
    other.load_state_dict(model.state_dict())
    found = other.sequence(u, state, reset)
    torch.testing.assert_close(found[0], h, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1]["s"], last["s"], rtol=1e-9, atol=1e-9)
    narrow = other.float().sequence(u.float(), state.map(Tensor.float), reset)[0]
    assert (narrow - h).abs().max() < 1e-3 * h.abs().max()


def test_emitted_states_keep_little_for_the_backward_pass():
    """Not what every single state is made of: that would be many times the states themselves."""
    batch, heads, length = 2, 2, 64
    key = F.normalize(torch.randn(batch, heads, length, 4), dim=-1).requires_grad_()
    full = torch.ones(batch, heads, length)
    row = Tokens(key, key, torch.randn(batch, heads, length, 5), -0.1 * full, full)
    reset = torch.rand(batch, length) < 0.1
    _, _, chunks = delta_rule(row, torch.zeros(batch, heads, 4, 5), reset, 32)
    seen: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    index = torch.stack([torch.randint(batch, (600,)), torch.randint(length, (600,))], 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        states = emitted_states(chunks, index, length)
    assert states.shape == (600, heads, 4, 5)
    assert sum(seen.values()) < states.numel() * states.element_size()


@pytest.mark.parametrize(("key", "kib"), [(32, 152), (64, 292)])
def test_state_bytes(key, kib):
    """D = 512, 8 heads, 2 layers; the bytes of the reference."""
    model = GatedDeltaNet(DeltaNetOptions(heads=8, key=key), 512)
    assert 2 * model.initial(1).nbytes_per_row == kib * 1024
    assert not any(leaf.any() for leaf in model.initial(1).values())


def test_initial_values():
    torch.manual_seed(1)
    model = GatedDeltaNet(DeltaNetOptions(heads=64), 128)
    rate, delta = model.A_log.detach().exp(), F.softplus(model.dt_bias.detach())
    assert 0 < float(rate.min()) < 3 < 13 < float(rate.max()) <= 16
    assert 1e-3 * 0.999 <= float(delta.min()) <= float(delta.max()) <= 1e-1 * 1.001
    assert (model.norm.weight == 1).all()
    assert all(not name.endswith(".bias") for name in model.state_dict())


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
    assert (half.float() - h).abs().mean() < 0.1 * h.abs().mean()


def test_nothing_is_read_on_the_host():
    """Meta tensors have shapes and no values."""
    with torch.device("meta"):
        model = GatedDeltaNet(SMALL, WIDTH)
        u, reset = torch.zeros(B, 9, WIDTH), torch.zeros(B, 9, dtype=torch.bool)
        picked = torch.zeros(5, 2, dtype=torch.int64)
        h, last, emitted = model.sequence(u, model.initial(B), reset, picked)
        model.step(u[:, 0], last, reset[:, 0])
    assert emitted is not None
    assert (h.shape, emitted["s"].shape) == ((B, 9, WIDTH), (5, 3, 4, 2))


@pytest.mark.parametrize("config", [SMALL, DeltaNetOptions(heads=1, key=3, chunk=2)])
def test_the_layer_obeys_every_law(config):
    assert len(check_backbone(GatedDeltaNet, config, WIDTH)) == 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, "width 6 is no multiple of heads 4"),
        ({"key": 0}, "key is 0, below 1"),
        ({"conv": 1}, "conv is 1, below 2"),
        ({"beta": 2.5}, "beta is above 0 and at most 2, not 2.5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        GatedDeltaNet(replace(SMALL, **change), WIDTH)
