"""Every operator: each implementation equals the float64 reference, in values and gradients."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.dispatch import OPERATORS

EPS = 1e-4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}


def implementation(operator: str, name: str) -> Any:
    return getattr(import_module(f"worldmodels.kernels.{operator}.{name}"), operator)


@dataclass
class Case:
    """Arguments of one call; the floating ones take gradients."""

    operator: str
    arguments: tuple[Any, ...]


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


CASES = {
    "norm_silu row": lambda: Case("norm_silu", (torch.randn(7), torch.randn(7), EPS)),
    "norm_silu": lambda: Case("norm_silu", (torch.randn(4, 5, 33), torch.randn(33), EPS)),
    "norm_silu strided": lambda: Case(
        "norm_silu", (torch.randn(6, 5, 8).transpose(0, 2)[::2], torch.randn(12)[::2], EPS)
    ),
    "norm_silu image": lambda: Case(
        "norm_silu", (channels_last(2, 6, 4, 4).permute(0, 2, 3, 1), torch.randn(6), EPS)
    ),
    "norm_silu tiny and large": lambda: Case(
        "norm_silu", (torch.logspace(-6, 4, 11)[:, None] * torch.randn(11, 8), torch.ones(8), EPS)
    ),
    "norm_silu zero": lambda: Case("norm_silu", (torch.zeros(3, 4), torch.ones(4), EPS)),
    "max_pool": lambda: Case("max_pool", (torch.randn(2, 3, 4, 6),)),
    "max_pool channels last": lambda: Case("max_pool", (channels_last(2, 3, 4, 6),)),
    "max_pool one channel": lambda: Case("max_pool", (channels_last(3, 1, 8, 8),)),
    "max_pool strided": lambda: Case("max_pool", (torch.randn(2, 5, 6, 4).transpose(1, 3),)),
    "max_pool ties": lambda: Case("max_pool", (torch.randint(0, 2, (4, 3, 8, 8)).float(),)),
    "max_pool many pixels": lambda: Case("max_pool", (torch.randn(1, 1, 256, 130),)),
    "sigmoid_error": lambda: Case(
        "sigmoid_error", (torch.randn(3, 4, 5, 3) * 4, pixels(3, 4, 5, 3))
    ),
    "sigmoid_error rows": lambda: Case("sigmoid_error", (torch.randn(150, 7), pixels(150, 7))),
    "sigmoid_error strided": lambda: Case(
        "sigmoid_error",
        (channels_last(3, 4, 6, 5).permute(0, 2, 3, 1), pixels(3, 5, 6, 4).transpose(1, 2)),
    ),
    "sigmoid_error saturated": lambda: Case(
        "sigmoid_error", (torch.tensor([[200.0, -200.0, 90.0]]), pixels(1, 3))
    ),
}


def run(name: str, case: Case, dtype: torch.dtype, keep: torch.dtype | None = None):
    """Output and the gradients of every floating argument, under fixed random weights.

    Parameters (the second argument of norm_silu) stay in `keep`, as under autocast.
    """
    arguments, learned = [], []
    for place, x in enumerate(case.arguments):
        if isinstance(x, Tensor) and x.is_floating_point():
            # A converted copy with the same strides.
            x = x.detach().to(keep if place and keep else dtype, copy=True).requires_grad_()
            learned.append(x)
        arguments.append(x)
    out = implementation(case.operator, name)(*arguments)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((out * weight.to(out.dtype)).sum(), learned)
    return out, grads, learned


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_eager_equals_the_reference(case, dtype):
    case = CASES[case]()
    expected, expected_grads, _ = run("reference", case, torch.float64)
    found, grads, learned = run("eager", case, dtype)
    assert found.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for grad, wanted, x in zip(grads, expected_grads, learned, strict=True):
        assert grad.dtype == x.dtype
        scale = float(wanted.abs().max().clamp(min=1))
        torch.testing.assert_close(grad.double(), wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["reference", "eager"])
@pytest.mark.parametrize("case", ["norm_silu", "max_pool channels last", "sigmoid_error"])
def test_bfloat16_in_with_float32_parameters(case, name):
    """As under autocast: the sum of errors is float32, everything else comes back in bfloat16."""
    case = CASES[case]()
    expected, expected_grads, _ = run("reference", case, torch.float64)
    found, grads, learned = run(name, case, torch.bfloat16, keep=torch.float32)
    total = case.operator == "sigmoid_error"
    assert found.dtype == (torch.float32 if total else torch.bfloat16)
    torch.testing.assert_close(found.double(), expected, rtol=4e-2, atol=4e-2)
    if case.operator == "max_pool":
        return  # rounding makes ties: the gradient may move within a window
    for grad, wanted, x in zip(grads, expected_grads, learned, strict=True):
        assert grad.dtype == x.dtype
        scale = float(wanted.abs().max())
        torch.testing.assert_close(grad.double(), wanted, rtol=5e-2, atol=5e-2 * scale)


@pytest.mark.parametrize("operator", ["norm_silu", "sigmoid_error"])
def test_gradients_by_finite_differences(operator):
    """The references themselves, and the hand-written backward, in float64."""
    case = {
        "norm_silu": (torch.randn(3, 5), torch.randn(5), EPS),
        "sigmoid_error": (torch.randn(3, 5), pixels(3, 5)),
    }[operator]
    inputs = [
        x.double().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in case
    ]
    for name in ("reference", "eager"):
        assert torch.autograd.gradcheck(implementation(operator, name), inputs)


def test_references_by_hand():
    """Worked numbers: rms of (3, 4) is sqrt(12.5); sigmoid(0) = 1/2; ties go to the first."""
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    y = x / 12.5**0.5
    found = implementation("norm_silu", "reference")(x, torch.ones(2).double(), 0.0)
    torch.testing.assert_close(found, y / (1 + torch.exp(-y)))
    logits = torch.zeros(1, 3, dtype=torch.float64)
    target = torch.tensor([[0, 255, 51]], dtype=torch.uint8)
    found = implementation("sigmoid_error", "reference")(logits, target)
    assert found.tolist() == pytest.approx([0.25 + 0.25 + 0.09])
    for name in ("reference", "eager"):
        x = torch.tensor([[[[1.0, 2.0], [2.0, 2.0]]]], requires_grad=True)
        out = implementation("max_pool", name)(x)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert out.item() == 2.0
        assert grad.flatten().tolist() == [0, 1, 0, 0]


def test_eager_norm_keeps_its_input_unchanged():
    x, weight = torch.randn(4, 6), torch.randn(6)
    kept = x.clone()
    implementation("norm_silu", "eager")(x, weight, EPS)
    assert torch.equal(x, kept)


def test_every_operator_is_covered():
    over_time = {"causal_conv", "selective_scan", "ssd"}  # their own files
    assert {make().operator for make in CASES.values()} | over_time == set(OPERATORS)
