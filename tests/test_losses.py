"""Balanced KL against the sum over classes in float64, and where its gradients go."""

import inspect

import pytest
import torch

from worldmodels.losses import balanced_kl


def unimixed(logits: torch.Tensor, unimix: float) -> torch.Tensor:
    p = torch.exp(logits - logits.logsumexp(-1, keepdim=True))
    return (1 - unimix) * p + unimix / logits.shape[-1]


def kl_by_loop(post: torch.Tensor, prior: torch.Tensor, unimix: float) -> torch.Tensor:
    """Sum over groups and classes of p log(p / q)."""
    p, q = unimixed(post.double(), unimix), unimixed(prior.double(), unimix)
    total = torch.zeros(post.shape[:-2], dtype=torch.float64)
    for s in range(post.shape[-2]):
        for c in range(post.shape[-1]):
            total += p[..., s, c] * torch.log(p[..., s, c] / q[..., s, c])
    return total


def test_signature():
    parameters = inspect.signature(balanced_kl).parameters
    assert list(parameters) == ["post_logits", "prior_logits", "free_nats", "unimix"]
    assert parameters["free_nats"].default == 1.0
    assert parameters["unimix"].default == 0.01


@pytest.mark.parametrize("unimix", [0.0, 0.01])
@pytest.mark.parametrize("free_nats", [0.0, 1.0, 6.0])
def test_values(free_nats, unimix):
    post, prior = torch.randn(2, 4, 5, 6, 8) * 2
    expected = kl_by_loop(post, prior, unimix).clamp(min=free_nats)
    assert (expected > free_nats).any()
    for found in balanced_kl(post, prior, free_nats, unimix):
        assert found.shape == (4, 5)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_laws_of_the_divergence():
    post, prior = torch.randn(2, 100, 3, 4)
    assert (balanced_kl(post, prior, free_nats=0.0)[0] >= 0).all()
    same = balanced_kl(post, post + 7.0, free_nats=0.0)[0]  # softmax ignores a shift
    assert same.abs().max() < 1e-5
    # Two classes apart by a lot: bounded by the uniform share, 0.995 log(0.995 / 0.005) + ...
    far = balanced_kl(torch.tensor([[[99.0, 0]]]), torch.tensor([[[0, 99.0]]]), free_nats=0.0)[0]
    assert far.item() == pytest.approx(0.99 * torch.tensor(0.995 / 0.005).log().item(), rel=1e-4)


def test_gradient_goes_to_one_side_each():
    post, prior = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    post.requires_grad_()
    prior.requires_grad_()
    dyn, rep = balanced_kl(post, prior, free_nats=0.0)
    for loss, learns, rests in ((dyn, prior, post), (rep, post, prior)):
        found = torch.autograd.grad(
            loss.sum(), [learns, rests], retain_graph=True, allow_unused=True
        )
        assert found[1] is None or not found[1].any()
        assert found[0] is not None
        # Central differences of the divergence in the learning side.
        way, step = torch.randn_like(learns), 1e-6
        moved = []
        for shift in (step, -step):
            p = (post + shift * way if learns is post else post).detach()
            q = (prior + shift * way if learns is prior else prior).detach()
            moved.append(float(kl_by_loop(p, q, 0.01).sum()))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert float((found[0] * way).sum()) == pytest.approx(slope, rel=1e-6)


def test_free_nats_act_on_the_sum_and_stop_the_gradient():
    """Two groups of 0.6 nats each exceed one free nat together, one alone does not."""
    prior = torch.zeros(2, 2, 2)
    logit = torch.tensor(4.0)
    one_group = kl_by_loop(torch.tensor([[[logit, 0.0]]]), torch.zeros(1, 1, 2), 0.01).item()
    assert 0.5 < one_group < 1.0
    post = torch.zeros(2, 2, 2)
    post[0, 0, 0] = logit  # one group apart
    post[1, :, 0] = logit  # both apart
    post.requires_grad_()
    dyn, rep = balanced_kl(post, prior)
    assert dyn[0] == rep[0] == 1.0
    assert dyn[1].item() == pytest.approx(2 * one_group, rel=1e-5)
    (grad,) = torch.autograd.grad(rep.sum(), post)
    assert not grad[0].any()
    assert grad[1].any()


def test_without_unimix_far_apart_is_finite():
    """KL of a sure posterior against a prior 200 nats away is 200, without 0 times infinity."""
    post = torch.tensor([[[200.0, 0.0]]], requires_grad=True)
    prior = torch.tensor([[[0.0, 200.0]]], requires_grad=True)
    dyn, rep = balanced_kl(post, prior, free_nats=0.0, unimix=0.0)
    assert dyn.item() == rep.item() == 200.0
    for grad in torch.autograd.grad((dyn + rep).sum(), [post, prior]):
        assert torch.isfinite(grad).all()


def test_float32_under_half_logits():
    post = torch.randn(3, 4, 5, dtype=torch.bfloat16)
    dyn, rep = balanced_kl(post, post)
    assert dyn.dtype == rep.dtype == torch.float32
