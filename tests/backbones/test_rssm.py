"""The block GRU and the plain GRU against their equations, written out in float64."""

import math
from typing import Any

import pytest
import torch

from worldmodels.backbones.configs import GRUConfig, RSSMConfig
from worldmodels.backbones.gru import GRU
from worldmodels.backbones.rssm import RSSM, gru_update


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_gates_are_split_within_each_block():
    """Two blocks of one unit: gates (r0, c0, u0, r1, c1, u1), worked by hand."""
    gates = [0.5, -1.0, 2.0, -0.3, 0.7, 0.1]
    h = [0.25, -0.5]
    expected = []
    for block in range(2):
        reset, candidate, update = gates[3 * block : 3 * block + 3]
        candidate = math.tanh(sigmoid(reset) * candidate)
        update = sigmoid(update - 1)
        expected.append(update * candidate + (1 - update) * h[block])
    found = gru_update(torch.tensor([gates]), torch.tensor([h]), blocks=2)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-6)
    flat = gru_update(torch.tensor([gates]), torch.tensor([h]), blocks=1)
    assert flat[0].tolist() != pytest.approx(expected, rel=1e-3)


def rms_norm_silu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * weight
    return x / (1 + torch.exp(-x))


@pytest.mark.parametrize("layers", [1, 2])
def test_rssm_step_is_the_published_core(layers):
    """x = [branch(h), u] is copied to every block beside the block's own slice of h."""
    deter, blocks, size = 12, 3, 5
    model = RSSM(RSSMConfig(deter=deter, hidden=4, blocks=blocks, layers=layers), size).double()
    for p in model.parameters():
        torch.nn.init.normal_(p)
    h, u = torch.randn(2, 7, deter, dtype=torch.float64), torch.randn(7, size, dtype=torch.float64)
    h = h[0]

    branch = rms_norm_silu(h @ model.from_h.weight.T + model.from_h.bias, model.from_h_norm.weight)
    x = torch.cat([branch, u], 1)
    grouped = torch.cat([torch.cat([part, x], 1) for part in h.chunk(blocks, 1)], 1)
    mixed = grouped @ torch.block_diag(*model.mix.weight.chunk(blocks, 1)) + model.mix.bias
    y = rms_norm_silu(mixed, model.mix_norm.weight)
    hidden: list[Any] = list(model.hidden)
    for linear, norm in zip(hidden[::2], hidden[1::2], strict=True):
        y = y @ torch.block_diag(*linear.weight.chunk(blocks, 1)) + linear.bias
        y = rms_norm_silu(y, norm.weight)
    gates = y @ torch.block_diag(*model.gates.weight.chunk(blocks, 1)) + model.gates.bias
    new = []
    for gate, own in zip(gates.chunk(blocks, 1), h.chunk(blocks, 1), strict=True):
        reset, candidate, update = gate.chunk(3, 1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        new.append(update * candidate + (1 - update) * own)

    found, state = model.step(u, model.initial(7).map(lambda _: h), None)
    torch.testing.assert_close(found, torch.cat(new, 1), rtol=1e-10, atol=1e-10)
    assert state["h"] is found


def test_rssm_fan_in_counts_the_copies():
    """Each block's first layer sees D / G + U + D_in inputs; the initialisation counts D + G x."""
    model = RSSM(RSSMConfig(deter=256, hidden=32, blocks=8), 64)
    assert model.mix.weight.shape == (256 // 8 + 32 + 64, 256)
    expected = 1 / math.sqrt(256 + 8 * (32 + 64))
    assert float(model.mix.weight.detach().std()) == pytest.approx(expected, rel=0.03)


def test_gru_step_is_the_textbook_cell():
    """r, z, n = gates; h' = (1 - z) n + z h, n = tanh(W u + b + r (U h + c))."""
    model = GRU(GRUConfig(deter=4), 3).double()
    u, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    cell = model.cell
    r_u, z_u, n_u = (u @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
    r_h, z_h, n_h = (h @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
    z = torch.sigmoid(z_u + z_h)
    n = torch.tanh(n_u + torch.sigmoid(r_u + r_h) * n_h)
    found, _ = model.step(u, model.initial(2).map(lambda _: h), None)
    torch.testing.assert_close(found, (1 - z) * n + z * h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "model", [RSSM(RSSMConfig(deter=16, hidden=8), 6), GRU(GRUConfig(deter=16), 6)]
)
def test_reset_is_the_zero_state(model):
    h, _ = model.step(torch.ones(2, 6), model.initial(2).map(lambda x: x + 3), None)
    fresh, _ = model.step(torch.ones(2, 6), model.initial(2), None)
    reset = torch.tensor([True, False])
    cut, _ = model.step(torch.ones(2, 6), model.initial(2).map(lambda x: x + 3), reset)
    assert torch.equal(cut[0], fresh[0])
    assert torch.equal(cut[1], h[1])
    assert not torch.equal(h[0], fresh[0])
    assert not model.initial(2)["h"].any()
