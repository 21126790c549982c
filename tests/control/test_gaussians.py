"""Log-variance, likelihood, regulariser, initialisation and decay of the dynamics networks."""

import math

import pytest
import torch

from worldmodels.control.gaussians import GaussianEnsemble, negative_log_likelihood
from worldmodels.control.standardiser import Standardiser


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def test_log_variance_is_clamped_softly():
    model = GaussianEnsemble(2, 3, 2, 4, 1).double()
    with torch.no_grad():
        model.max_log_variance.copy_(torch.tensor([[[0.5, 1.0]], [[-1.0, 2.0]]]))
        model.min_log_variance.copy_(torch.tensor([[[-10.0, -3.0]], [[-5.0, -8.0]]]))
        model.mlp.linears[-1].weight.mul_(150)  # so that both bounds bind somewhere
    x = torch.randn(40, 3).double()
    mean, found = model(x)
    raw = model.mlp(x)
    torch.testing.assert_close(mean, raw[..., :2])
    for i in range(2):
        for b in range(40):
            for o in range(2):
                value = raw[i, b, 2 + o].item()
                high = model.max_log_variance[i, 0, o].item()
                low = model.min_log_variance[i, 0, o].item()
                value = high - softplus(high - value)
                value = low + softplus(value - low)
                assert found[i, b, o].item() == pytest.approx(value, rel=1e-9)
    assert raw[..., 2:].min().item() < -10 < 2 < raw[..., 2:].max().item()


def test_likelihood_is_the_normal_one():
    """lv + (y - mu)^2 / var, a mean over outputs: 2 NLL less the constant log 2 pi."""
    mean, log_variance, target = (torch.randn(2, 5, 3).double() for _ in range(3))
    found = negative_log_likelihood(mean, log_variance, target[0])
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = (-2 * normal.log_prob(target[0]) - math.log(2 * math.pi)).mean(-1)
    torch.testing.assert_close(found, expected)


def test_bounds_start_and_count_per_member():
    model = GaussianEnsemble(3, 4, 2, 5, 1)
    assert model.bounds().tolist() == [21.0] * 3  # 2 outputs x (0.5 + 10)
    model.bounds()[1].backward()
    for parameter, sign in ((model.max_log_variance, 1.0), (model.min_log_variance, -1.0)):
        assert parameter.grad is not None
        assert parameter.grad.sum((1, 2)).tolist() == [0.0, 2 * sign, 0.0]


def test_no_member_moves_another():
    model = GaussianEnsemble(3, 4, 2, 5, 2)
    mean, log_variance = model(torch.randn(6, 4))
    negative_log_likelihood(mean, log_variance, torch.randn(6, 2))[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [True, False, False], name


def test_weights_start_from_a_truncated_normal():
    """Two deviations of 1 / (2 sqrt(fan in)) bound every weight, and some are near the bound."""
    for layer in GaussianEnsemble(7, 9, 4, 50, 4).mlp.linears:
        deviation = 1 / (2 * math.sqrt(layer.weight.shape[1]))
        assert 1.9 * deviation < float(layer.weight.detach().abs().max()) <= 2 * deviation
        assert float(layer.weight.detach().std()) == pytest.approx(0.88 * deviation, rel=0.05)
        assert not layer.bias.any()


def test_decay_rises_with_the_layer():
    model = GaussianEnsemble(2, 3, 2, 4, 4)
    free, *weights = model.parameter_groups(1e-3, 1e-4)
    assert "weight_decay" not in free
    assert [group["weight_decay"] for group in weights] == pytest.approx(
        [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4]
    )
    assert {group["lr"] for group in (free, *weights)} == {1e-3}
    every = [p for group in (free, *weights) for p in group["params"]]
    assert {id(p) for p in every} == {id(p) for p in model.parameters()}
    assert len(every) == len(list(model.parameters()))


def test_standardiser_equals_one_pass_over_all_rows():
    torch.manual_seed(2)
    standardiser, kept = Standardiser(3).double(), []
    with torch.no_grad():
        for count in (1, 5, 17, 2, 0, 40):
            x = torch.randn(count + 3, 3).double() * torch.tensor([1.0, 50.0, 0.0]) + 7
            weight = (torch.arange(count + 3) < count).double()[torch.randperm(count + 3)]
            standardiser.observe(x, weight)
            kept.append(x[weight > 0])
            rows = torch.cat(kept)
            assert int(standardiser.count) == len(rows)
            torch.testing.assert_close(standardiser.mean, rows.mean(0))
            if len(rows) > 1:
                torch.testing.assert_close(
                    standardiser.variance, rows.var(0, correction=0), atol=1e-9, rtol=1e-9
                )
    rows = torch.cat(kept)
    found = standardiser(rows)
    torch.testing.assert_close(found[:, :2].std(0, correction=0), torch.ones(2).double())
    assert float(found[:, 2].abs().max()) < 1e-14  # a constant column is only shifted
    torch.testing.assert_close(standardiser(rows[:, :2]), found[:, :2])


def test_a_constant_column_is_shifted_and_no_more():
    standardiser, x = Standardiser(2), torch.tensor([[7.1, 3e5]]).repeat(9, 1)
    for _ in range(20):
        standardiser.observe(x, torch.ones(9))
    assert standardiser(x + 1)[0].tolist() == pytest.approx([1, 1], abs=0.1)


def test_standardiser_without_rows_changes_nothing():
    standardiser, x = Standardiser(2), torch.randn(4, 2)
    standardiser.observe(x, torch.zeros(4))
    assert torch.equal(standardiser(x), x)
