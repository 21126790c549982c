"""The Triton convolution against the reference in float64: outputs, gradients, resets."""

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.causal_conv import causal_conv as public_conv
from worldmodels.kernels.causal_conv import conv_step
from worldmodels.kernels.causal_conv.reference import causal_conv as reference_conv
from worldmodels.kernels.causal_conv.triton import _conv
from worldmodels.kernels.causal_conv.triton import causal_conv as triton_conv

Inputs = dict[str, Tensor]

NARROW = ("x", "initial_window")
"""What may be half precision here; weight and bias are float32, as parameters are."""
TOLERANCES = {
    torch.float32: (1e-5, 5e-5),
    torch.float16: (2e-3, 5e-3),
    torch.bfloat16: (2e-2, 3e-2),  # the interpreter truncates where a GPU rounds
}
"""Of y and of gradients: largest difference over largest value."""


def make(length: int, width: int = 4, channels: int = 20, batch: int = 2) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": draw(batch, length, channels),
        "weight": draw(channels, width),
        "bias": draw(channels),
        "initial_window": draw(batch, width - 1, channels),
    }


def resets(length: int) -> Tensor:
    """Of two rows: on the first step, and on two neighbours in the middle."""
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[0, 0] = True
    middle = length // 2
    reset[0, 3 * length // 4] = reset[1, middle : middle + 2] = length > 2
    return reset


def leaves(inputs: Inputs, dtype: torch.dtype = torch.float32) -> Inputs:
    """Copies that take gradients, those that may be narrow in `dtype`."""
    return {
        name: x.detach().to(dtype if name in NARROW else torch.float32).requires_grad_()
        for name, x in inputs.items()
    }


def run(inputs: Inputs, activation: str | None = "silu", reset=None) -> tuple[Tensor, Tensor]:
    bias, window = inputs.get("bias"), inputs.get("initial_window")
    return triton_conv(inputs["x"], inputs["weight"], bias, activation, reset, window)


def expected(inputs: Inputs, activation: str | None = "silu", reset=None):
    """The same of the reference, in float64, with its inputs."""
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    bias, window = wide.get("bias"), wide.get("initial_window")
    return reference_conv(wide["x"], wide["weight"], bias, activation, reset, window), wide


def gradients(results, inputs: Inputs, parts: tuple[int, ...] = (0, 1)) -> list[Tensor]:
    """Of a fixed random weighting of y, the last window or both."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in results]
    found = torch.autograd.grad(
        [results[part] for part in parts],
        list(inputs.values()),
        [weights[part] for part in parts],
        allow_unused=True,
        materialize_grads=True,
    )
    return list(found)


def assert_near(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    assert found.shape == wanted.shape, name
    error = (found.double() - wanted.double()).abs().max() / (wanted.double().abs().max() + 1e-6)
    assert error <= tolerance, f"{name}: {float(error):.2e}"  # NaN fails too


def check(inputs: Inputs, parts: tuple[int, ...] = (0, 1), **call) -> None:
    """Every output and every gradient."""
    y, last = results = run(inputs, **call)
    wanted, wide = expected(inputs, **call)
    of_values, of_gradients = TOLERANCES[inputs["x"].dtype]
    assert y.dtype == inputs["x"].dtype
    assert last.dtype == torch.float32
    assert_near(y, wanted[0], of_values, "y")
    assert torch.equal(last.double(), wanted[1])
    found = gradients(results, inputs, parts)
    for name, a, b in zip(inputs, found, gradients(wanted, wide, parts), strict=True):
        assert a.dtype == inputs[name].dtype
        assert_near(a, b, of_gradients, f"gradient of {name}")


@pytest.mark.parametrize(
    ("length", "width"),
    [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4), (5, 2), (5, 4), (17, 3), (17, 4)],
)
def test_outputs_and_gradients(length, width):
    check(leaves(make(length, width)), reset=resets(length))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 11])
def test_half_precision(length, dtype):
    check(leaves(make(length), dtype), reset=resets(length))


def test_several_blocks_of_channels():
    check(leaves(make(3, 4, 260)), reset=resets(3))


def test_a_program_sums_over_many_stretches(monkeypatch):
    monkeypatch.setattr("worldmodels.kernels.causal_conv.triton._SUMMING", 3)
    check(leaves(make(40)), reset=resets(40))


@pytest.mark.parametrize("absent", ["bias", "initial_window", "reset", "silu", "all"])
@pytest.mark.parametrize("length", [1, 9])
def test_options_can_be_absent(length, absent):
    inputs = leaves(make(length))
    for name in ("bias", "initial_window"):
        if absent in (name, "all"):
            del inputs[name]
    activation = None if absent in ("silu", "all") else "silu"
    reset = None if absent in ("reset", "all") else resets(length)
    check(inputs, activation=activation, reset=reset)


@pytest.mark.parametrize("part", [0, 1])
def test_each_result_alone_gives_gradients(part):
    check(leaves(make(7)), (part,), reset=resets(7))


def test_strides():
    inputs = leaves(make(6))
    inputs["x"] = inputs["x"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    inputs["weight"] = inputs["weight"].detach().T.contiguous().T.requires_grad_()
    assert not inputs["x"].is_contiguous()
    check(inputs)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_reset_cuts_values_and_gradients(length):
    """NaN and infinity do not pass it; what comes before it gets gradients that are exactly 0."""
    at = length // 2
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[:, at] = True
    clean = make(length)
    y, last = run(clean, reset=reset)
    dirty = {name: x.clone() for name, x in clean.items()}
    dirty["initial_window"][0], dirty["initial_window"][1] = torch.nan, torch.inf
    dirty["x"][:, :at] = torch.nan
    found, found_last = run(dirty, reset=reset)
    assert torch.equal(found[:, at:], y[:, at:])
    assert torch.equal(found_last, last)

    inputs = leaves(clean)
    y, last = run(inputs, reset=reset)
    timed = [inputs["x"], inputs["initial_window"]]
    x, window = torch.autograd.grad(y[:, at:].sum() + last.sum(), timed)
    assert (window == 0).all()
    assert (x[:, :at] == 0).all()
    assert (x[:, at:] != 0).any(2).all()


def test_a_window_that_is_cut_at_once_leaves_every_gradient_clean():
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[:, 0] = True
    clean = leaves(make(6))
    dirty = clean | {"initial_window": torch.full((2, 3, 20), torch.nan, requires_grad=True)}
    of_clean = gradients(run(clean, reset=reset), clean)
    for a, b in zip(gradients(run(dirty, reset=reset), dirty), of_clean, strict=True):
        assert torch.equal(a, b)


def test_nothing_looks_ahead():
    inputs = make(11)
    y, _ = run(inputs)
    later = inputs["x"].clone()
    later[:, 7:] = torch.nan
    found, _ = run(inputs | {"x": later})
    assert torch.equal(found[:, :7], y[:, :7])


@pytest.mark.parametrize("cut", [2, 6])
def test_a_split_run_is_one_run(cut):
    """Gradients through the window that is carried, too."""
    length = 11
    inputs, reset = leaves(make(length)), resets(length)
    y, last = whole = run(inputs, reset=reset)
    before, after = inputs["x"][:, :cut], inputs["x"][:, cut:]
    first, window = run(inputs | {"x": before}, reset=reset[:, :cut])
    second, final = run(inputs | {"x": after, "initial_window": window}, reset=reset[:, cut:])
    split = torch.cat([first, second], 1), final
    assert torch.equal(split[0], y)
    assert torch.equal(final, last)
    pairs = zip(inputs, gradients(split, inputs), gradients(whole, inputs), strict=True)
    for name, a, b in pairs:
        assert_near(a, b, 1e-6, name)


def test_steps_are_the_sequence():
    length = 7
    inputs, reset = make(length), resets(length)
    y, last = run(inputs, reset=reset)
    window, weights = inputs["initial_window"], (inputs["weight"], inputs["bias"], "silu")
    for t in range(length):
        one = {"reset": reset[:, t], "window": window, "implementation": "triton"}
        found, window = conv_step(inputs["x"][:, t], *weights, **one)
        assert torch.equal(found, y[:, t])
    assert torch.equal(window, last)


def test_two_runs_agree_bit_for_bit():
    inputs, reset = leaves(make(11)), resets(11)
    runs = [run(inputs, reset=reset) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*[gradients(results, inputs) for results in runs], strict=True):
        assert torch.equal(a, b)


def test_what_is_refused():
    inputs = make(3)
    with pytest.raises(ValueError, match=r"takes no torch\.float64; choose"):
        run(inputs | {"x": inputs["x"].double()})
    with pytest.raises(ValueError, match="has 2 to 4 taps, not 5; choose"):
        public_conv(inputs["x"], torch.zeros(20, 5), implementation="triton")
    run(inputs)


def test_torch_knows_the_operator():
    """Schema, shapes without data, autograd registration."""
    x, weight, bias, window = leaves(make(2)).values()
    torch.library.opcheck(_conv, (x, weight, bias, resets(2), window, True))


def test_in_a_compiled_graph():
    inputs, reset = leaves(make(9)), resets(9)

    def conv(inputs: Inputs, reset: Tensor):
        y, last = run({k: 2 * x for k, x in inputs.items()}, reset=reset)
        return y + 1, last * 2

    plain = conv(inputs, reset)
    graph = torch.compile(conv, fullgraph=True, backend="aot_eager")(inputs, reset)
    for a, b in zip(graph, plain, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(graph, inputs), gradients(plain, inputs), strict=True):
        assert torch.equal(a, b)
