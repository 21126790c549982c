"""Lambda-returns and the percentile normaliser against loops and the published example."""

import inspect

import numpy as np
import pytest
import torch

from worldmodels.returns import ReturnNormalizer, lambda_returns


def test_signatures():
    assert list(inspect.signature(lambda_returns).parameters) == [
        "reward",
        "cont",
        "value",
        "discount",
        "lam",
    ]
    defaults = {k: p.default for k, p in inspect.signature(ReturnNormalizer).parameters.items()}
    assert defaults == {"decay": 0.99, "low": 0.05, "high": 0.95, "limit": 1.0}


def test_published_example():
    """r = (., 1, 2, 3), c = (., 1, 1, 0), v = (., 10, 20, 30), lambda 0.95 -> (7.0575, 5.85, 3)."""
    reward, cont = torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 1, 0]])
    value = torch.tensor([[-99.0, 10, 20, 30]])
    found = lambda_returns(reward, cont, value, 1.0, 0.95)
    assert found.tolist()[0] == pytest.approx([7.0575, 5.85, 3.0], rel=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0, "per step"])
def test_against_the_sum_of_n_step_returns(lam):
    """R_i = (1 - lam) sum_n lam^(n-1) G_i^n + lam^(N-1) G_i^N, with G^n the n-step return."""
    rows, length, discount = 3, 6, 0.9
    reward, cont = torch.randn(rows, length), torch.rand(rows, length)
    value = torch.randn(rows, length + 1)
    mixing = torch.rand(rows, length) if lam == "per step" else torch.full((rows, length), lam)
    found = lambda_returns(reward, cont, value, discount, mixing if lam == "per step" else lam)
    assert found.shape == (rows, length)
    for b in range(rows):
        for i in range(length):
            total, weight, partial, factor = 0.0, 1.0, 0.0, 1.0
            for k in range(i, length):
                partial += factor * float(reward[b, k])
                factor *= discount * float(cont[b, k])
                n_step = partial + factor * float(value[b, k + 1])
                stop = 1.0 if k == length - 1 else 1 - float(mixing[b, k])
                total += weight * stop * n_step
                weight *= float(mixing[b, k])
            assert float(found[b, i]) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_values_of_a_chain_are_the_fixed_point():
    """Two states that alternate with rewards 1 and 2: V0 = (2 + g) / (1 - g^2), reward on arrival.

    From state 0 the agent arrives in state 1 and is paid 2, from state 1 in state 0 for 1.
    """
    g = 0.8
    v0, v1 = (2 + g * 1) / (1 - g * g), (1 + g * 2) / (1 - g * g)
    reward = torch.tensor([[2.0, 1, 2, 1, 2]])
    value = torch.tensor([[v0, v1, v0, v1, v0, v1]])
    for lam in (0.0, 0.5, 1.0):
        found = lambda_returns(reward, torch.ones(1, 5), value, g, lam)
        torch.testing.assert_close(found, value[:, :-1])
        shifted = lambda_returns(reward.roll(1, 1), torch.ones(1, 5), value, g, lam)
        assert (shifted - value[:, :-1]).abs().max() > 0.1


def test_returns_are_float32():
    half = torch.rand(2, 3).bfloat16()
    assert lambda_returns(half, half, torch.rand(2, 4).bfloat16(), 1.0, 0.95).dtype == torch.float32


def test_normalizer_starts_from_zero():
    """After one update with the percentiles 0 and R the scale is max(1, 0.01 R)."""
    normalizer = ReturnNormalizer()
    assert normalizer.scale == 1.0
    assert normalizer.offset == 0.0
    spread = torch.linspace(0, 1000 / 0.9, 10_001) - 1000 / 0.9 * 0.05  # P5 = 0, P95 = 1000
    normalizer.update(spread)
    assert normalizer.scale.item() == pytest.approx(10.0, rel=1e-4)
    assert normalizer.offset.item() == pytest.approx(0.0, abs=1e-4)
    normalizer = ReturnNormalizer()
    normalizer.update(spread / 20)
    assert normalizer.scale.item() == 1.0  # 0.5 is below the limit


def test_normalizer_against_numpy():
    normalizer = ReturnNormalizer(decay=0.9, low=0.1, high=0.75, limit=0.01)
    low = high = 0.0
    for n in (1, 2, 7, 1024):
        returns = torch.randn(n, 3) * 5
        normalizer.update(returns)
        low = 0.9 * low + 0.1 * np.percentile(returns.double().numpy(), 10)
        high = 0.9 * high + 0.1 * np.percentile(returns.double().numpy(), 75)
        assert normalizer.offset.item() == pytest.approx(low, rel=1e-4, abs=1e-5)
        assert normalizer.scale.item() == pytest.approx(high - low, rel=1e-4, abs=1e-5)


def test_normalizer_keeps_no_gradient_and_is_saved():
    normalizer = ReturnNormalizer()
    normalizer.update((torch.randn(100) * 1e4).requires_grad_())
    assert not normalizer.scale.requires_grad
    other = ReturnNormalizer()
    other.load_state_dict(normalizer.state_dict())
    assert other.scale == normalizer.scale > 1


def test_normalizer_takes_more_values_than_torch_quantile():
    values = torch.zeros(2**24 + 1)
    values[: 2**23] = 1.0
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 0.95)
    normalizer = ReturnNormalizer(decay=0.0, limit=0.5)
    normalizer.update(values)
    assert normalizer.scale == 1.0
