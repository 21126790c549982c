"""LaProp with adaptive gradient clipping against a plain float64 loop and worked numbers."""

import copy
import inspect
import math

import pytest
import torch

from worldmodels.config import OptimizerConfig
from worldmodels.errors import UserError
from worldmodels.optim import LaProp
from worldmodels.optimizer import build_optimizer
from worldmodels.optimizer_options import AdamConfig
from worldmodels.sockets import Socket


def test_signature():
    defaults = {k: p.default for k, p in inspect.signature(LaProp).parameters.items()}
    assert list(defaults)[:2] == ["params", "lr"]
    assert defaults["betas"] == (0.9, 0.999)
    assert defaults["eps"] == 1e-20
    assert defaults["agc"] == 0.3
    assert defaults["warmup"] == 0


def loop(start, grads, lr, betas, eps, agc, warmup):
    """One tensor, number by number: clip by norms, normalise, then momentum."""
    p = [float(v) for v in start.flatten()]
    mu, nu = [0.0] * len(p), [0.0] * len(p)
    for n, gradient in enumerate(grads):
        g = [float(v) for v in gradient.flatten()]
        if agc:
            limit = agc * max(1e-3, math.sqrt(sum(v * v for v in p)))
            factor = max(1.0, math.sqrt(sum(v * v for v in g)) / limit)
            g = [v / factor for v in g]
        rate = lr * (min(1.0, (n + 1) / warmup) if warmup else 1.0)
        for i, v in enumerate(g):
            nu[i] = betas[1] * nu[i] + (1 - betas[1]) * v * v
            u = v / (math.sqrt(nu[i] / (1 - betas[1] ** (n + 1))) + eps)
            mu[i] = betas[0] * mu[i] + (1 - betas[0]) * u
            p[i] -= rate * mu[i] / (1 - betas[0] ** (n + 1))
    return torch.tensor(p, dtype=torch.float64).view(start.shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"agc": 0.0},
        {"warmup": 7, "agc": 0.01},
        {"betas": (0.5, 0.9), "eps": 0.1, "warmup": 100},
    ],
)
def test_many_steps_against_the_loop(options):
    options = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-20, "agc": 0.3, "warmup": 0} | options
    starts = [torch.randn(4, 3), torch.zeros(5), torch.full((2,), 1e-4), torch.randn(())]
    params = [torch.nn.Parameter(p.clone()) for p in starts]
    optimizer = LaProp(params, **options)
    history = [[] for _ in params]
    for n in range(40):
        for p, grads in zip(params, history, strict=True):
            p.grad = torch.randn_like(p) * 10.0 ** (n % 5 - 3)
            grads.append(p.grad.clone())
        optimizer.step()
    for start, p, grads in zip(starts, params, history, strict=True):
        expected = loop(start, grads, **options)
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-4, atol=2e-6)


def test_first_step_has_the_size_of_the_learning_rate():
    """The first normalised gradient is +-1, whatever the gradient's size (eps is 1e-20)."""
    for warmup, expected in ((0, 0.01), (1000, 1e-5)):
        p = torch.nn.Parameter(torch.randn(100))
        before = p.detach().clone()
        p.grad = torch.randn(100) * torch.logspace(-12, 4, 100)
        grad = p.grad.clone()
        LaProp([p], lr=0.01, warmup=warmup).step()
        moved = (p.detach() - before).double()
        torch.testing.assert_close(moved, -expected * grad.sign().double(), rtol=1e-3, atol=2.5e-7)


def test_warmup_is_linear_then_constant():
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, steps = LaProp([p], lr=1.0, warmup=4, agc=0.0), []
    for _ in range(6):  # a constant gradient keeps the normalised momentum at 1
        before = p.item()
        p.grad = torch.ones_like(p)
        optimizer.step()
        steps.append(before - p.item())
    assert steps == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rel=1e-5)


def test_clipping_bounds_the_gradient_norm():
    """agc max(1e-3, |p|) per whole tensor: 3e-4 where the parameter is zero.

    With a huge eps the first step is the clipped gradient itself, over eps.
    """
    for size, norm, kept in ((0.0, 50.0, 3e-4), (2.0, 50.0, 0.3 * 4), (2.0, 1.19, 1.19)):
        p = torch.nn.Parameter(torch.full((4,), size, dtype=torch.float64))
        p.grad = torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64) * norm
        LaProp([p], lr=1.0, eps=1e6).step()
        moved = ((size - p.detach()) * 1e6).tolist()
        assert moved == pytest.approx([0.6 * kept, 0.8 * kept, 0, 0], rel=1e-4)


def test_it_is_not_adam():
    """Normalising before the momentum: after gradients 1 and 0 the two methods differ."""
    p, q = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    laprop = LaProp([p], lr=1.0, agc=0.0, betas=(0.9, 0.99))
    adam = torch.optim.Adam([q], lr=1.0, betas=(0.9, 0.99), eps=1e-20)
    for gradient in (1.0, 0.0):
        p.grad, q.grad = torch.full_like(p, gradient), torch.full_like(q, gradient)
        laprop.step()
        adam.step()
    # LaProp: mu = 0.09 after u = (1, 0), debiased by 0.19. Adam divides by the newer root.
    assert -p.item() == pytest.approx(1 + 0.09 / 0.19, rel=1e-5)
    assert -q.item() == pytest.approx(1 + 0.09 / 0.19 / math.sqrt(0.0099 / 0.0199), rel=1e-5)


def test_zero_and_missing_gradients_leave_a_parameter_alone():
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = LaProp([p, q], lr=1.0)
    q.grad = torch.zeros(3)
    optimizer.step()
    assert p.tolist() == q.tolist() == [1, 1, 1]


def test_state_resumes_exactly():
    def advance(p, optimizer, seeds):
        for seed in seeds:
            p.grad = torch.randn(3, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    p = torch.nn.Parameter(torch.ones(3))
    first = LaProp([p], lr=0.1, warmup=5)
    advance(p, first, range(3))
    q = torch.nn.Parameter(p.detach().clone())
    second = LaProp([q], lr=0.1, warmup=5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    advance(p, first, range(3, 8))
    advance(q, second, range(3, 8))
    assert torch.equal(p, q)


def test_closure_runs_with_gradients():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = LaProp([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss is not None
    assert loss.item() == 2.0
    assert p.tolist() == pytest.approx([0.9, 0.9])


class Two(Socket):
    """Two weights; `second` is learned in a group of its own."""

    def __init__(self, **second):
        super().__init__()
        self.first, self.second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.own = second

    def weights(self):
        return {}

    def parameter_groups(self):
        if not self.own:
            return super().parameter_groups()
        return [{"params": [self.first]}, {"params": [self.second], **self.own}]


def test_modules_that_ask_for_nothing_share_one_group():
    """So checkpoints stay those of one optimiser over all parameters in order."""
    modules = [Two(), Two()]
    optimizer = build_optimizer(OptimizerConfig(warmup=3), modules)
    assert isinstance(optimizer, LaProp)
    (group,) = optimizer.param_groups
    expected = [p for module in modules for p in (module.first, module.second)]
    assert all(a is b for a, b in zip(group["params"], expected, strict=True))
    assert (group["lr"], group["agc"], group["warmup"], group["eps"]) == (4e-5, 0.3, 3, 1e-20)


def test_a_group_has_its_own_rate_and_decay():
    """Adam's first step is lr x sign(g + decay x p), whatever the size of the gradient."""
    one, two = Two(), Two(lr=0.5, weight_decay=10.0)
    optimizer = build_optimizer(AdamConfig(learning_rate=0.1), [one, two])
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1]
    for p in (one.first, one.second, two.first, two.second):
        p.grad = torch.tensor([2.0, -3.0, -20.0])
    optimizer.step()
    for p in (one.first, one.second, two.first):
        torch.testing.assert_close(p.detach(), 1 - 0.1 * torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(two.second.detach(), 1 - 0.5 * torch.tensor([1.0, 1.0, -1.0]))
    assert torch.equal(one.frozen, torch.ones(3))


def test_laprop_has_no_weight_decay():
    build_optimizer(OptimizerConfig(), [Two(weight_decay=0.0)])
    with pytest.raises(UserError, match=r"optimizer\.name laprop has no weight decay.*use adam"):
        build_optimizer(OptimizerConfig(), [Two(weight_decay=0.1)])
