"""Operators over time: dtypes, autocast, tensors without values, wrong arguments."""

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.causal_conv import causal_conv, windows
from worldmodels.kernels.selective_scan import selective_scan
from worldmodels.kernels.ssd import ssd

BATCH = 3
implementations = pytest.mark.parametrize("implementation", ["reference", "eager"])


@implementations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_float32_arithmetic(over_time, implementation, dtype, draw):
    """Against float64 on the same rounded inputs: only the results' own rounding is left."""
    inputs = {
        name: x.to(dtype).double() if name in over_time.timed else x.float().double()
        for name, x in over_time.make(BATCH, 9, lambda *shape: draw(*shape) / 2).items()
    }
    exact = over_time.leaf(inputs)
    expected = over_time(exact, None, "all", implementation="reference")
    given = {
        name: x.to(dtype if name in over_time.timed else torch.float32).requires_grad_()
        for name, x in inputs.items()
    }
    found = over_time(given, None, "all", implementation=implementation)
    assert [part.dtype for part in found] == [dtype, torch.float32, torch.float32]
    over_time.assert_near(found[1:], expected[1:], 1e-5)
    over_time.assert_near(found[:1], expected[:1], 1e-2)
    grads = over_time.gradients(found, list(given.values()))
    assert all(g.dtype == x.dtype for g, x in zip(grads, given.values(), strict=True))
    wanted = over_time.gradients(expected, list(exact.values()))
    over_time.assert_near(grads, wanted, 2e-2, list(given))


@implementations
def test_autocast_changes_nothing(over_time, implementation, draw):
    inputs = over_time.leaf(over_time.make(BATCH, 7, draw), torch.float32)
    positions = torch.tensor([[2, 6], [0, 1], [2, 6]])
    results = over_time(inputs, None, positions, implementation=implementation)
    grads = over_time.gradients(results, list(inputs.values()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = over_time(inputs, None, positions, implementation=implementation)
        again_grads = over_time.gradients(again, list(inputs.values()))
    for a, b in zip((*results, *grads), (*again, *again_grads), strict=True):
        assert torch.equal(a, b)


@implementations
@pytest.mark.parametrize("emit", [None, "all", "some"])
def test_tensors_without_values_go_through(over_time, implementation, emit, draw):
    """No value is read on the host and no shape depends on one."""
    real = over_time.make(BATCH, 7, draw)
    inputs = {name: x.to("meta").requires_grad_() for name, x in real.items()}
    reset = torch.zeros(BATCH, 7, dtype=torch.bool, device="meta")
    emit = torch.zeros(4, 2, dtype=torch.int64, device="meta") if emit == "some" else emit
    results = over_time(inputs, reset, emit, implementation=implementation)
    total = sum(part.sum() for part in results if part is not None)
    assert isinstance(total, Tensor)
    grads = torch.autograd.grad(total, list(inputs.values()))
    assert [g.shape for g in grads] == [x.shape for x in inputs.values()]


def test_inputs_are_left_as_they_are(over_time, draw):
    inputs = over_time.leaf(over_time.make(BATCH, 7, draw))
    reset, positions = torch.rand(BATCH, 7) < 0.3, torch.tensor([[2, 6], [0, 1]])
    kept = {name: x.detach().clone() for name, x in inputs.items()}
    over_time.gradients(over_time(inputs, reset, "all"), list(inputs.values()))
    with torch.no_grad():
        over_time(inputs, reset, positions)
    assert all(torch.equal(x, kept[name]) for name, x in inputs.items())


def flags(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool)


WRONG = [
    ({"reset": flags(3, 6)}, r"reset has shape \[3, 6\]; give it \[3, 7\]"),
    ({"reset": torch.zeros(3, 7)}, r"reset is torch.float32; give it as bool"),
    ({"emit": "last"}, r"emit is 'last'; give None, 'all' or int64 \[M, 2\]"),
    ({"emit": torch.zeros(4, 3)}, r"emit is torch.float32 \[4, 3\]; give it as int64 \[M, 2\]"),
    ({"implementation": "tritn"}, r"is one of reference, eager.*, not 'tritn'"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_options_say_so(over_time, wrong, message, draw):
    inputs = over_time.make(BATCH, 7, draw)
    with pytest.raises(ValueError, match=message):
        over_time(inputs, **wrong)


def test_wrong_shapes_say_so(over_time, draw):
    """Every input in turn, with an axis too many and with a wrong size."""
    inputs = over_time.make(BATCH, 7, draw)
    main = over_time.timed[0]
    for name, x in inputs.items():
        bad = [x[None]]
        if name != main:
            bad += [torch.cat([x, x], axis) for axis in range(x.ndim)]
        for wrong in bad:
            if over_time.name == "causal_conv" and (name, wrong.shape) == ("weight", (5, 8)):
                continue  # the state is wrong then
            with pytest.raises(ValueError, match=rf"{over_time.name}: .* has shape"):
                over_time({**inputs, name: wrong})
    with pytest.raises(ValueError, match="at least one step of time"):
        over_time(over_time.cut(inputs, slice(0)))


def test_wrong_numbers_say_so():
    x, zeros = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4)
    A, B = torch.zeros(4), torch.zeros(2, 3, 3, 6)
    with pytest.raises(ValueError, match="4 heads do not divide into 3 groups"):
        ssd(x, zeros, A, B, B)
    with pytest.raises(ValueError, match="chunk is 0; give at least 1"):
        ssd(x, zeros, A, B[:, :, :2], B[:, :, :2], chunk=0)
    with pytest.raises(ValueError, match="activation is 'relu'; give None or 'silu'"):
        causal_conv(zeros, torch.zeros(4, 3), activation="relu")
    with pytest.raises(ValueError, match="the width is 1; give at least 2"):
        causal_conv(zeros, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="emit is None; give windows"):
        windows(zeros, 4, emit=None)


@implementations
def test_optional_arguments_may_be_missing(implementation, draw):
    """Each one absent equals its neutral value."""
    u, delta, z = draw(2, 4, 3), draw(2, 4, 3).abs(), torch.full((2, 4, 3), 1e4).double()
    A, B, C = -draw(3, 2).abs(), draw(2, 4, 2), draw(2, 4, 2)
    bare = selective_scan(u, delta, A, B, C, implementation=implementation)
    zeros = torch.zeros(3, dtype=torch.float64)
    full = selective_scan(
        u, delta, A, B, C, zeros, z, zeros, implementation=implementation, reset=flags(2, 4)
    )
    torch.testing.assert_close(full[0], bare[0] * 1e4)
    torch.testing.assert_close(full[1], bare[1])
    x, steps, heads = draw(2, 4, 3, 5), draw(2, 4, 3), torch.zeros(3, dtype=torch.float64)
    B, C = draw(2, 4, 1, 2), draw(2, 4, 1, 2)
    bare = ssd(x, steps, A[:, 0], B, C, implementation=implementation)
    gate = torch.full_like(x, 1e4)
    full = ssd(
        x,
        steps,
        A[:, 0],
        B,
        C,
        heads,
        gate,
        heads,
        implementation=implementation,
        reset=flags(2, 4),
    )
    torch.testing.assert_close(full[0], bare[0] * 1e4)
    torch.testing.assert_close(full[1], bare[1])
    weight = draw(3, 4)
    bare = causal_conv(u, weight, implementation=implementation)[0]
    full = causal_conv(u, weight, zeros, reset=flags(2, 4), implementation=implementation)[0]
    torch.testing.assert_close(full, bare)
