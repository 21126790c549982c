"""`torch.compile` takes the implementations made of torch's own operations into one graph."""

from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.causal_conv import eager as conv
from worldmodels.kernels.selective_scan import eager as scan
from worldmodels.kernels.ssd import chunks, emission, loop

LENGTH = 5


def make_reset(length: int) -> Tensor:
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[0, 0] = reset[1, length // 2] = reset[0, -1] = True
    return reset


def asked(length: int) -> Tensor:
    steps = [length - 1, 0, length // 2, length - 1]
    return torch.tensor([[1, 0, 1, 1], steps]).T.contiguous()


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("implementation", "length", "emit"),
    [
        ("reference", LENGTH, "some"),
        ("eager", 1, None),
        ("eager", 1, "some"),
        ("eager", LENGTH, None),
        ("eager", LENGTH, "all"),
        ("eager", LENGTH, "some"),
    ],
)
def test_one_graph_forward_and_backward(over_time, implementation, length, emit, draw):
    inputs = over_time.leaf(over_time.make(2, length, draw), torch.float32)
    emit = asked(length) if emit == "some" else emit

    def run(inputs: dict[str, Tensor], reset: Tensor, emit: Any) -> list[Tensor]:
        moved = {name: 2 * x for name, x in inputs.items()}
        results = over_time(moved, reset, emit, implementation=implementation)
        return [x + 1 for x in results if x is not None]

    found = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        results = function(inputs, make_reset(length), emit)
        found.append([*results, *over_time.gradients(results, list(inputs.values()))])
    over_time.assert_near(found[1], found[0], 1e-6 if implementation == "eager" else 1e-5)


def test_one_graph_without_gradients(over_time, draw):
    inputs = {name: x.float() for name, x in over_time.make(2, LENGTH, draw).items()}
    call = torch.compile(over_time, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = call(inputs, make_reset(LENGTH), asked(LENGTH), implementation="eager")
        wanted = over_time(inputs, make_reset(LENGTH), asked(LENGTH), implementation="eager")
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_one_graph_where_stretches_are_recomputed(operators, draw, monkeypatch):
    monkeypatch.setattr(scan, "_STORED", 1)
    monkeypatch.setattr(scan, "_STRETCH", 2 * 2 * 4 * 15)
    test_one_graph_forward_and_backward(operators["selective_scan"], "eager", LENGTH, "some", draw)


def test_one_graph_under_autocast(over_time, draw):
    inputs = over_time.leaf(over_time.make(2, LENGTH, draw), torch.float32)
    found = []
    for function in (over_time, torch.compile(over_time, fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = function(inputs, make_reset(LENGTH), "all", implementation="eager")
            found.append([*results, *over_time.gradients(results, list(inputs.values()))])
    over_time.assert_near(found[1], found[0], 1e-6)


def test_a_second_derivative_is_refused(over_time, draw):
    inputs = over_time.leaf(over_time.make(2, LENGTH, draw))
    y, *_ = over_time(inputs, implementation="eager")
    first = inputs[over_time.timed[0]]
    (grad,) = torch.autograd.grad(y.square().sum(), first, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no autograd formula|does not require grad"):
        torch.autograd.grad(grad.sum(), first)


def leaves(draw, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [draw(*shape).float().requires_grad_() for shape in shapes]


def calls(draw) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every registered operator, with arguments of its own; some of these are strided."""
    reset = make_reset(LENGTH)
    bits = reset.int() - 1
    x, window, taps, bias = leaves(draw, (2, LENGTH, 3), (2, 3, 3), (4, 3), (3,))
    u, delta, A, state = leaves(draw, (2, LENGTH, 4), (2, LENGTH, 4), (4, 3), (2, 4, 3))
    B, C = (pair[..., :3] for pair in leaves(draw, (2, LENGTH, 7), (2, LENGTH, 7)))
    wide, decay, matrix = leaves(draw, (2, LENGTH, 4, 3), (2, LENGTH, 4), (2, 4, 3, 2))
    into, out_of = leaves(draw, (2, LENGTH, 2, 2), (2, LENGTH, 2, 2))
    (before,) = leaves(draw, (3, 2, 4, 3, 2))
    dual = (wide, decay, into, out_of, matrix, reset, 2)
    kept = torch.stack([bits] * 3)
    return {
        "causal_conv": (conv._operator, (x, window, taps, bias, kept, True)),
        "causal_conv bare": (conv._operator, (x, window, taps, None, None, False)),
        "selective_scan": (scan._operator, (u, delta, -A.abs(), B, C, state, bits, True)),
        "selective_scan bare": (scan._operator, (u, delta, A, B, C, state, None, True)),
        "ssd chunks": (chunks.chunks, dual),
        "ssd loop": (loop.loop, dual),
        "ssd emission": (
            emission._operator,
            (wide, decay, into, before, reset, *asked(LENGTH).unbind(1), 2),
        ),
    }


@pytest.mark.parametrize("name", list(calls(torch.randn)))
def test_torch_knows_the_operator(name, draw):
    """Schema, shapes without data, autograd registration."""
    registered, arguments = calls(draw)[name]
    torch.library.opcheck(registered, arguments)
