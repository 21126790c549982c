"""The Triton selective scan against the reference in float64: outputs, gradients, resets."""

from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.launch import recorded
from worldmodels.kernels.selective_scan import selective_scan as public_scan
from worldmodels.kernels.selective_scan.triton import _forward
from worldmodels.kernels.selective_scan.triton import selective_scan as triton_scan

Inputs = dict[str, Tensor]

NARROW = ("u", "delta", "B", "C", "z")
"""What may be half precision; the kernels calculate with, and keep, float32 of all others."""
TOLERANCES = {
    torch.float32: (1e-5, 5e-5),
    torch.float16: (2e-3, 5e-3),
    torch.bfloat16: (2e-2, 3e-2),  # the interpreter truncates where a GPU rounds
}
"""Of y and of gradients: largest difference over largest value."""


def make(
    length: int, channels: int = 24, states: int = 16, batch: int = 2, seed: int = 0
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "u": draw(batch, length, channels),
        "delta": draw(batch, length, channels),
        "A": -draw(channels, states).abs(),
        "B": draw(batch, length, states),
        "C": draw(batch, length, states),
        "D": draw(channels),
        "z": draw(batch, length, channels),
        "delta_bias": draw(channels),
        "initial_state": draw(batch, channels, states),
    }


def resets(batch: int, length: int) -> Tensor:
    """Random, on the first step of the first row and in the middle of the last row."""
    reset = torch.rand(batch, length, generator=torch.Generator().manual_seed(2)) < 0.15
    reset[0, 0], reset[-1, 0] = True, False
    reset[-1, length // 2] = length > 1
    return reset


def leaves(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Copies that take gradients, those that may be narrow in `dtype`."""
    return {
        name: x.detach().to(dtype if name in NARROW else torch.float32).requires_grad_()
        for name, x in inputs.items()
    }


def run(inputs: Inputs, softplus: bool = True, reset=None, emit=None):
    """y, the last state, the emitted states."""
    # On copies: guard zones count as writes to what autograd has saved from another call.
    own = {name: x.clone() for name, x in inputs.items()}
    u, delta, A, B, C = (own[name] for name in ("u", "delta", "A", "B", "C"))
    D, z, delta_bias, state = (own.get(k) for k in ("D", "z", "delta_bias", "initial_state"))
    reset = None if reset is None else reset.clone()
    return triton_scan(u, delta, A, B, C, D, z, delta_bias, softplus, reset, state, emit)


def expected(inputs: Inputs, softplus: bool = True, reset=None, emit=None):
    """The same of the reference, in float64, with its inputs."""
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    call: dict[str, Any] = {"delta_softplus": softplus, "reset": reset, "emit": emit}
    return public_scan(**wide, **call, implementation="reference"), wide


def gradients(results, inputs: Inputs, parts: str = "y last emitted") -> list[Tensor]:
    """Of a fixed random weighting of the results that are among `parts`."""
    generator = torch.Generator().manual_seed(1)
    chosen, weights = [], []
    for name, x in zip(("y", "last", "emitted"), results, strict=True):
        if x is not None:
            weight = torch.randn(x.shape, generator=generator)
            if name in parts.split():
                chosen.append(x)
                weights.append(weight.to(x.dtype))
    found = torch.autograd.grad(
        chosen, list(inputs.values()), weights, allow_unused=True, materialize_grads=True
    )
    return list(found)


def assert_near(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    assert found.shape == wanted.shape, name
    error = (found.double() - wanted.double()).abs().max() / (wanted.double().abs().max() + 1e-6)
    assert error <= tolerance, f"{name}: {float(error):.2e}"  # NaN fails too


def check(inputs: Inputs, parts: str = "y last emitted", **call: Any) -> None:
    """Every output and every gradient."""
    dtype = inputs["u"].dtype
    results = run(inputs, **call)
    wanted, wide = expected(inputs, **call)
    tolerance, of_gradients = TOLERANCES[dtype]
    assert results[0].dtype == dtype
    assert results[1].dtype == torch.float32
    for name, a, b in zip(("y", "last", "emitted"), results, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_near(a, b, tolerance if name == "y" else 1e-5, name)
    found = gradients(results, inputs, parts)
    for name, a, b in zip(inputs, found, gradients(wanted, wide, parts), strict=True):
        assert a.dtype == inputs[name].dtype
        assert_near(a, b, of_gradients, f"gradient of {name}")


def positions(length: int) -> Tensor:
    """Unsorted, one of them three times, the ends of time among them."""
    middle = length // 2
    steps = [[1, middle], [0, length - 1], [1, 0], [1, middle], [0, middle], [1, middle]]
    return torch.tensor(steps)


def emission(kind: str | None, length: int):
    return positions(length) if kind == "indexed" else kind


@pytest.mark.parametrize(
    ("length", "channels", "states", "emit", "dtype"),
    [
        (1, 40, 16, "all", torch.float32),
        (1, 24, 3, None, torch.float32),
        (5, 24, 3, "all", torch.float16),
        (5, 40, 16, "indexed", torch.bfloat16),
        (11, 40, 16, None, torch.float32),
        (11, 24, 3, "indexed", torch.float32),
        (17, 24, 16, "all", torch.float32),
        (17, 20, 3, "indexed", torch.float16),
        (16, 40, 3, "all", torch.float32),
    ],
)
def test_outputs_and_gradients(length, channels, states, emit, dtype):
    inputs = leaves(make(length, channels, states), dtype)
    check(inputs, reset=resets(2, length), emit=emission(emit, length))


@pytest.mark.parametrize("absent", ["D", "z", "delta_bias", "initial_state", "reset", "softplus"])
def test_each_option_can_be_absent(absent):
    length = 9
    inputs = leaves(make(length, states=3), torch.float32)
    inputs.pop(absent, None)
    reset = None if absent == "reset" else resets(2, length)
    if absent == "softplus":
        inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
    check(inputs, softplus=absent != "softplus", reset=reset, emit="all")


def test_all_options_can_be_absent():
    inputs = leaves(make(10, states=3), torch.float32)
    inputs = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
    check(inputs, softplus=False)


@pytest.mark.parametrize("parts", ["y", "last", "emitted"])
def test_each_result_alone_gives_gradients(parts):
    inputs = leaves(make(10, states=3), torch.float32)
    check(inputs, parts, reset=resets(2, 10), emit=positions(10))


def test_mixed_dtypes_and_strides():
    inputs = leaves(make(6, states=3), torch.float32)
    inputs["delta"] = inputs["delta"].detach().half().requires_grad_()
    inputs["u"] = inputs["u"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    inputs["A"] = inputs["A"].detach().T.contiguous().T.requires_grad_()
    assert not inputs["u"].is_contiguous()
    results = run(inputs)
    wanted, wide = expected(inputs)
    assert_near(results[0], wanted[0], 1e-5, "y")
    pairs = zip(inputs, gradients(results, inputs), gradients(wanted, wide), strict=True)
    for name, a, b in pairs:
        assert_near(a, b, 2e-3 if name == "delta" else 5e-5, name)


def test_large_and_small_delta():
    """Softplus where it is the identity, its exponential too large for float32 or not, where it
    vanishes, and decays that underflow.
    """
    inputs = leaves(make(6, states=3), torch.float32)
    delta = inputs["delta"].detach()
    delta[:, ::3], delta[:, 1::3] = 30.0 + delta[:, ::3], -30.0 + delta[:, 1::3]
    delta[:, 3] += 100.0
    inputs["delta"] = delta.requires_grad_()
    inputs["A"] = (inputs["A"].detach() * 8).requires_grad_()
    check(inputs)


@pytest.mark.parametrize("length", [1, 9, 11])
def test_a_reset_cuts_values_and_gradients(length):
    """NaN and infinity do not pass it; what comes before it gets gradients that are exactly 0."""
    at = length // 2
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[:, at] = True
    clean = make(length, states=3)
    y, last, _ = run(clean, reset=reset)
    dirty = {name: x.clone() for name, x in clean.items()}
    dirty["initial_state"][0], dirty["initial_state"][1] = torch.nan, torch.inf
    dirty["u"][:, :at] = torch.nan
    found, found_last, _ = run(dirty, reset=reset)
    assert torch.equal(found[:, at:], y[:, at:])
    assert torch.equal(found_last, last)

    inputs = leaves(clean, torch.float32)
    y, last, _ = run(inputs, reset=reset)
    timed = [inputs[name] for name in (*NARROW, "initial_state")]
    *found, initial = torch.autograd.grad(y[:, at:].sum() + last.sum(), timed)
    assert (initial == 0).all()
    for g in found:
        assert (g[:, :at] == 0).all()
        assert (g[:, at] != 0).any()


def test_a_split_run_is_one_run():
    """Bit for bit forwards; gradients through the state that is carried."""
    length, cut = 13, 6
    inputs, reset = leaves(make(length, states=3), torch.float32), resets(2, length)
    y, last, _ = whole = run(inputs, reset=reset)
    timed = [{k: x[:, part] for k, x in inputs.items() if k in NARROW} for part in halves(cut)]
    first, state, _ = run(inputs | timed[0], reset=reset[:, :cut])
    second, final, _ = run(inputs | timed[1] | {"initial_state": state}, reset=reset[:, cut:])
    assert torch.equal(torch.cat([first, second], 1), y)
    assert torch.equal(final, last)
    split = torch.cat([first, second], 1), final, None
    pairs = zip(inputs, gradients(split, inputs), gradients(whole, inputs), strict=True)
    for name, a, b in pairs:
        assert_near(a, b, 1e-6, name)


def halves(cut: int) -> tuple[slice, slice]:
    return slice(None, cut), slice(cut, None)


def test_two_runs_agree_bit_for_bit():
    inputs, reset = leaves(make(10, 40), torch.float32), resets(2, 10)
    runs = [run(inputs, reset=reset, emit=positions(10)) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*[gradients(results, inputs) for results in runs], strict=True):
        assert torch.equal(a, b)


def test_nothing_is_stored_without_need():
    """No states without a gradient to take, nor for one chunk of steps; no emitted states."""
    for length, learns, stores in ((9, True, True), (8, True, False), (9, False, False)):
        inputs = make(length, states=3)
        with recorded() as launches:
            run(leaves(inputs, torch.float32) if learns else inputs)
        assert (launches[0].arguments["stored"] is not None) == stores
        assert launches[0].arguments["order"] is None


def test_no_rows_of_states_requested():
    inputs = leaves(make(3, states=3), torch.float32)
    results = run(inputs, emit=torch.zeros(0, 2, dtype=torch.int64))
    assert results[2] is not None
    assert results[2].shape == (0, 24, 3)
    gradients(results, inputs)


def test_float64_is_refused():
    inputs = {name: x.double() for name, x in make(2).items()}
    with pytest.raises(ValueError, match=r"takes no torch\.float64; choose"):
        run(inputs)
    run(make(2))


def arguments(length: int) -> list[Any]:
    """Of the operator itself."""
    inputs = leaves(make(length, 20, 3), torch.float32)
    order, offsets = torch.arange(2 * length).int(), torch.arange(2 * length + 1).int()
    return [*inputs.values(), resets(2, length), order, offsets, True, True]


def test_torch_knows_the_operator():
    """Schema, shapes without data, autograd registration."""
    torch.library.opcheck(_forward, tuple(arguments(9)))


def test_in_a_compiled_graph():
    inputs, reset = leaves(make(9, 20, 3), torch.float32), resets(2, 9)

    def scan(inputs: Inputs, reset: Tensor, at: Tensor):
        y, last, emitted = run({k: 2 * x for k, x in inputs.items()}, reset=reset, emit=at)
        assert emitted is not None
        return y + 1, last * 2, emitted * 3

    plain = scan(inputs, reset, positions(9))
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    graph = compiled(inputs, reset, positions(9))
    for a, b in zip(graph, plain, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(graph, inputs), gradients(plain, inputs), strict=True):
        assert torch.equal(a, b)
