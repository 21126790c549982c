"""Layers and their initialisation (dreamer_v3: RMSNorm inside the root, trunc-normal, fan-in)."""

import math

import pytest
import torch
from scipy.stats import truncnorm

from worldmodels.backbones.layers import (
    MLP,
    BlockLinear,
    Linear,
    NormSiLU,
    block_matmul,
    init_weight,
)


def check_init(weight: torch.Tensor, fan_in: int, scale: float = 1.0) -> None:
    """A normal truncated at two sigma of standard deviation scale / sqrt(fan_in)."""
    std = scale / math.sqrt(fan_in)
    sigma = std / float(truncnorm(-2, 2).std())  # 1.1368 std, from scipy's closed form
    assert float(weight.detach().abs().max()) <= 2 * sigma * 1.001
    assert float(weight.detach().abs().max()) > 1.9 * sigma
    assert float(weight.detach().std()) == pytest.approx(std, rel=0.03)
    assert float(weight.detach().mean()) == pytest.approx(0, abs=5 * std / weight.numel() ** 0.5)


def test_truncated_normal():
    weight = torch.empty(200, 300)
    init_weight(weight, fan_in=300, scale=0.5)
    check_init(weight, 300, 0.5)
    init_weight(weight, fan_in=300, scale=0.0)
    assert not weight.any()


def test_linear():
    layer = Linear(400, 300)
    check_init(layer.weight, 400)
    assert not layer.bias.any()
    check_init(Linear(400, 300, scale=0.01).weight, 400, 0.01)
    assert not Linear(40, 30, scale=0.0)(torch.randn(5, 40)).any()


def test_block_linear_uses_the_full_fan_in():
    """8 blocks of 64 -> 32: the standard deviation is 1 / sqrt(512), not 1 / sqrt(64)."""
    layer = BlockLinear(512, 256, blocks=8)
    assert layer.weight.shape == (64, 256)
    check_init(layer.weight, 512)
    assert not layer.bias.any()


def test_block_linear_is_a_block_diagonal_matrix():
    layer = BlockLinear(6, 9, blocks=3).double()
    torch.nn.init.normal_(layer.bias)
    dense = torch.block_diag(*layer.weight.split(3, 1))  # [6, 9]
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ dense + layer.bias, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(block_matmul(x, layer.weight, 3), x @ dense, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="does not divide"):
        BlockLinear(6, 9, blocks=2)


def test_norm_silu_by_hand():
    """x = (3, 4): mean square 12.5; y = x / sqrt(12.5 + 1e-4) * w; silu(y) = y / (1 + e^-y)."""
    layer = NormSiLU(2)
    assert layer.weight.tolist() == [1.0, 1.0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0]))
    y = [3 / math.sqrt(12.5001), -2 * 4 / math.sqrt(12.5001)]
    expected = [v / (1 + math.exp(-v)) for v in y]
    assert layer(torch.tensor([3.0, 4.0])).tolist() == pytest.approx(expected, rel=1e-6)
    # The offset is inside the root: a tiny x is divided by 0.01, not by its own size.
    tiny = layer(torch.tensor([1e-6, 1e-6])).tolist()
    assert tiny == pytest.approx([0.5e-4, -1e-4], rel=1e-3)


def test_mlp_is_linear_norm_silu_repeated():
    mlp = MLP(5, 7, layers=3)
    assert [type(part) for part in mlp] == [Linear, NormSiLU] * 3
    assert mlp[0].in_features == 5
    assert mlp(torch.randn(2, 3, 5)).shape == (2, 3, 7)
