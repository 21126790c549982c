"""Distributions against closed forms, scipy and the published numbers of DreamerV3."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy import stats

from worldmodels.distributions import (
    BoundedNormal,
    OneHot,
    TwoHot,
    default_bins,
    symexp,
    symlog,
)


def test_signatures():
    def names(function):
        return list(inspect.signature(function).parameters.items())

    assert [n for n, _ in names(TwoHot.from_logits)] == ["logits", "bins"]
    assert [n for n, _ in names(TwoHot.encode)] == ["x", "bins"]
    assert dict(names(OneHot.from_logits))["unimix"].default == 0.01
    assert names(OneHot.sample)[1][0] == "generator"
    assert names(OneHot.sample)[1][1].default is None
    assert isinstance(OneHot.from_logits(torch.zeros(2, 3)).probs, torch.Tensor)


def test_symlog_symexp():
    x = torch.tensor([-1e6, -3.0, -1e-4, 0.0, 1e-4, 1.0, 20.0])
    expected = [math.copysign(math.log1p(abs(v)), v) for v in x.tolist()]
    assert symlog(x).tolist() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=1e-9)
    assert symexp(torch.tensor(math.log(3.0))).item() == pytest.approx(2.0, rel=1e-6)
    assert symexp(torch.tensor(-1e-8)).item() == pytest.approx(-1e-8, rel=1e-6)  # no cancellation


def test_bins_of_the_2025_form():
    """255 bins, symexp of even spacing 20 / 127 in symlog space, exactly symmetric around 0."""
    bins = default_bins()
    assert bins.shape == (255,)
    assert bins.dtype == torch.float32
    assert bins[127] == 0
    assert torch.equal(bins, -bins.flip(0))
    assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-6)
    assert bins[-1].item() == pytest.approx(4.8517e8, rel=1e-4)
    assert bins[128].item() == pytest.approx(0.170558, abs=1e-6)
    spacing = torch.diff(symlog(bins.double()))
    assert spacing.numpy() == pytest.approx(np.full(254, 0.15748031), abs=1e-6)


def test_bins_kept_from_inference_serve_training():
    """Whoever asks first, in whatever mode, must not spoil the bins that are kept."""
    default_bins.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        TwoHot.from_logits(torch.zeros(2, 255, device="cpu")).mean()
    logits = torch.zeros(2, 255, requires_grad=True)
    TwoHot.from_logits(logits).mean().sum().backward()
    assert logits.grad is not None
    assert default_bins().device.type == "cpu"


def test_two_hot_of_one():
    """y = 1 lies between the bins 0.87746 and 1.19768; the upper one gets the weight 0.3827."""
    weights = TwoHot.encode(torch.tensor(1.0))
    used = weights.nonzero().flatten()
    assert default_bins()[used].tolist() == pytest.approx([0.87746, 1.19768], abs=1e-5)
    assert weights[used].tolist() == pytest.approx([1 - 0.3827, 0.3827], abs=1e-4)


FIVE = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])


@pytest.mark.parametrize("bins", [None, FIVE, FIVE.double()])
def test_two_hot_against_a_loop(bins):
    values = torch.cat([torch.randn(200) * 3, torch.tensor([0.0, 1.0, -4.0, 4.0, 1e12, -1e12])])
    grid = (default_bins() if bins is None else bins).double().tolist()
    weights = TwoHot.encode(values.view(2, 103), bins)
    assert weights.shape == (2, 103, len(grid))
    for y, row in zip(values.double().tolist(), weights.view(206, -1), strict=True):
        y = min(max(y, grid[0]), grid[-1])
        k = max(i for i in range(len(grid) - 1) if grid[i] <= y)
        upper = (y - grid[k]) / (grid[k + 1] - grid[k])
        expected = torch.zeros(len(grid))
        expected[k], expected[k + 1] = 1 - upper, upper
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
    inside = values[:200].clamp(grid[0], grid[-1])
    means = (weights.view(206, -1)[:200].double() * torch.tensor(grid)).sum(-1)
    torch.testing.assert_close(means, inside.double(), rtol=1e-5, atol=1e-5)


def test_two_hot_log_prob_is_the_cross_entropy():
    logits = torch.randn(4, 5, 255)
    y = torch.randn(4, 5) * 100
    weights = TwoHot.encode(y).double()
    expected = (weights * torch.log_softmax(logits.double(), -1)).sum(-1)
    found = TwoHot.from_logits(logits).log_prob(y)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_two_hot_mean_against_float64():
    logits = torch.randn(50, 255)
    expected = (torch.softmax(logits.double(), -1) * default_bins().double()).sum(-1)
    # Probabilities of 1/255 at +-4.9e8 leave absolute errors of float32 size there.
    scale = float((torch.softmax(logits, -1) * default_bins().abs()).sum(-1).max())
    error = (TwoHot.from_logits(logits).mean().double() - expected).abs().max()
    assert float(error) < 1e-6 * scale
    even = torch.tensor([-2.0, -1.0, 1.0, 2.0])  # no middle bin
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert TwoHot.from_logits(probs.log(), even).mean().item() == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [0.0, 3.7])
def test_two_hot_mean_is_exactly_zero_for_equal_logits(dtype, level):
    logits = torch.full((1000, 255), level, dtype=dtype)
    mean = TwoHot.from_logits(logits).mean()
    assert mean.dtype == torch.float32
    assert (mean == 0).all()


def test_two_hot_shape_error():
    with pytest.raises(ValueError, match="do not fit 255 bins"):
        TwoHot.from_logits(torch.zeros(2, 41))


def test_one_hot_unimix_enters_everything():
    """p = 0.99 softmax + 0.01 / C, in probabilities, entropy and likelihood."""
    logits = torch.randn(6, 4) * 5
    p = 0.99 * stats_softmax(logits.double()) + 0.01 / 4
    d = OneHot.from_logits(logits)
    torch.testing.assert_close(d.probs.double(), p, rtol=1e-5, atol=1e-7)
    entropy = torch.tensor([stats.entropy(row) for row in p.numpy()])
    torch.testing.assert_close(d.entropy().double(), entropy, rtol=1e-5, atol=1e-6)
    for k in range(4):
        found = d.log_prob(torch.eye(4)[k].expand(6, 4))
        torch.testing.assert_close(found.double(), p[:, k].log(), rtol=1e-5, atol=1e-6)
    floor = OneHot.from_logits(torch.tensor([1000.0, 0, 0, 0]))
    assert floor.probs.tolist() == pytest.approx([0.9925, 0.0025, 0.0025, 0.0025])
    assert OneHot.from_logits(logits, unimix=0.5).probs.min() >= 0.125
    assert torch.equal(d.mode().argmax(-1), logits.argmax(-1))


def stats_softmax(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def test_one_hot_samples_follow_the_unimixed_probabilities():
    logits = torch.tensor([9.0, 0.0, -2.0, 1.0, -9.0])
    d = OneHot.from_logits(logits.expand(40_000, 5), unimix=0.1)
    counts = d.sample(torch.Generator().manual_seed(1)).sum(0)
    expected = d.probs[0].double()
    assert (
        stats.chisquare(counts.numpy(), 40_000 * (expected / expected.sum()).numpy()).pvalue > 1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_one_hot_samples_are_exact(dtype, unimix):
    d = OneHot.from_logits(torch.randn(300, 32, 64) * 8, unimix)
    z = d.sample(dtype=dtype)
    assert z.dtype == dtype
    assert ((z == 0) | (z == 1)).all()
    assert (z.float().sum(-1) == 1).all()
    assert (d.probs[z.bool()] > 0).all()


def test_one_hot_without_unimix_survives_underflow():
    """Classes of probability 0 in float32: no 0 times infinity, in values or in gradients."""
    logits = torch.tensor([300.0, 0.0, 0.0], requires_grad=True)
    d = OneHot.from_logits(logits, unimix=0.0)
    assert d.log_prob(torch.eye(3)).tolist() == [0.0, -300.0, -300.0]
    assert d.entropy() == 0.0
    (grad,) = torch.autograd.grad(d.entropy() + d.log_prob(torch.eye(3)).sum(), logits)
    assert grad.tolist() == [-2.0, 1.0, 1.0]


def test_one_hot_is_at_least_float32():
    assert (
        OneHot.from_logits(torch.zeros(2, 3, dtype=torch.bfloat16)).sample().dtype == torch.float32
    )
    assert (
        OneHot.from_logits(torch.zeros(2, 3, dtype=torch.float64)).sample().dtype == torch.float64
    )


def test_one_hot_generator():
    d = OneHot.from_logits(torch.zeros(50, 7))
    before = torch.get_rng_state()
    one, two = (d.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(d.sample(), d.sample())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_straight_through_gradient_is_that_of_the_unimixed_probs(dtype):
    logits, weight = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5).bfloat16().float()
    z = OneHot.from_logits(logits).sample(dtype=dtype)
    (found,) = torch.autograd.grad((z.float() * weight).sum(), logits)
    p = torch.softmax(logits.detach().double(), -1)
    w = weight.double()
    expected = 0.99 * p * (w - (w * p).sum(-1, keepdim=True))  # the softmax's Jacobian by hand
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_bounded_normal_against_scipy():
    parameters = torch.randn(20, 6)
    d = BoundedNormal.from_parameters(parameters)
    mean = np.tanh(parameters[:, :3].double().numpy())
    std = 0.9 / (1 + np.exp(-(parameters[:, 3:].double().numpy() + 2))) + 0.1
    x = torch.randn(20, 3)
    found = d.log_prob(x).double().numpy()
    assert found == pytest.approx(
        stats.norm.logpdf(x.double().numpy(), mean, std).sum(-1), rel=1e-4
    )
    assert d.entropy().numpy() == pytest.approx(stats.norm.entropy(mean, std).sum(-1), rel=1e-4)
    assert d.mode().numpy() == pytest.approx(mean, rel=1e-5)
    wide = BoundedNormal.from_parameters(torch.tensor([0.0, 0.0, 99.0, -99.0]))
    assert wide.std.tolist() == pytest.approx([1.0, 0.1])


def test_bounded_normal_samples():
    d = BoundedNormal.from_parameters(torch.tensor([0.5, -1.0, 0.0, -3.0]).expand(40_000, 4))
    x = d.sample(torch.Generator().manual_seed(0))
    assert torch.equal(x, d.sample(torch.Generator().manual_seed(0)))
    assert not x.requires_grad
    assert x.mean(0).tolist() == pytest.approx(d.mean[0].tolist(), abs=0.02)
    assert x.std(0).tolist() == pytest.approx(d.std[0].tolist(), rel=0.02)


def test_no_gradient_through_a_sampled_action():
    """REINFORCE: the score carries the gradient, the sample none."""
    parameters = torch.randn(3, 4, requires_grad=True)
    d = BoundedNormal.from_parameters(parameters)
    x = d.sample()
    (grad,) = torch.autograd.grad(d.log_prob(x).sum(), parameters)
    mean, std = d.mean.detach(), d.std.detach()
    expected = (x - mean) / std**2 * (1 - mean**2)  # d log p / d mu, mean = tanh(mu)
    torch.testing.assert_close(grad[:, :2], expected, rtol=1e-4, atol=1e-5)
