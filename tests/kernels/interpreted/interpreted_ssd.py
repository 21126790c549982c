"""The kernels of the state-space dual form against the reference in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels.ssd import ssd as operator
from worldmodels.kernels.ssd.triton import ssd

BATCH, HEADS, WIDTH, SIZE = 2, 2, 20, 24  # of which nothing is a whole number of tiles
EXACT, HALF, COARSE = (1e-5, 5e-5), (2e-3, 5e-3), (1e-2, 2e-2)


def make(
    draw,
    length: int,
    groups: int = 1,
    timed: bool = False,
    wide_skip: bool = False,
    without: tuple[str, ...] = (),
    heads: int = HEADS,
    width: int = WIDTH,
    size: int = SIZE,
) -> dict[str, Tensor]:
    rows = (BATCH, length)
    inputs = {
        "x": draw(*rows, heads, width),
        "dt": draw(*rows, heads),
        "A": -draw(*rows, heads).abs() if timed else -draw(heads).abs(),
        "B": draw(*rows, groups, size),
        "C": draw(*rows, groups, size),
        "D": draw(heads, width) if wide_skip else draw(heads),
        "z": draw(*rows, heads, width),
        "dt_bias": draw(heads),
        "initial_state": draw(BATCH, heads, width, size),
    }
    return {name: x for name, x in inputs.items() if name not in without}


def run(inputs: dict[str, Tensor], reset=None, emit: Any = None, chunk=16, softplus=True) -> Any:
    """The kernels, or in float64 the reference."""
    given: dict[str, Any] = dict.fromkeys(("D", "z", "dt_bias", "initial_state"))
    given |= {**inputs, "dt_softplus": softplus, "chunk": chunk, "reset": reset, "emit": emit}
    if inputs["x"].dtype == torch.float64:
        return operator(**given, implementation="reference")
    return ssd(**given)


def resets(*places: tuple[int, int], length: int) -> Tensor:
    reset = torch.zeros(BATCH, length, dtype=torch.bool)
    for row, step in places:
        reset[row, step] = True
    return reset


@pytest.fixture
def compare(operators):
    """Values and every gradient of the kernels against those of the reference."""
    tools = operators["ssd"]

    def check(inputs, tolerances=EXACT, dtype=torch.float32, kept=(0, 1, 2), **kwargs) -> None:
        halves = ("x", "B", "C", "z") if dtype != torch.float32 else ()
        given = {
            name: x.to(dtype if name in halves else torch.float32).requires_grad_()
            for name, x in inputs.items()
        }
        exact = tools.leaf(given)
        found, expected = run(given, **kwargs), run(exact, **kwargs)
        assert found[0].dtype == dtype
        assert all(part is None or part.dtype == torch.float32 for part in found[1:])
        tools.assert_near(found, expected, tolerances[0], ("y", "last", "emitted"))
        found, expected = ([results[k] for k in kept] for results in (found, expected))
        grads = tools.gradients(found, list(given.values()))
        assert all(g.dtype == x.dtype for g, x in zip(grads, given.values(), strict=True))
        wanted = tools.gradients(expected, list(exact.values()))
        tools.assert_near(grads, wanted, tolerances[1], list(given))

    return check


def asked(length: int) -> Tensor:
    """Out of order, one of them twice, the first and the last step among them."""
    steps = [length - 1, 0, length // 2, length - 1, length // 3]
    return torch.tensor([[1, 0, 1, 1, 0], steps]).T.contiguous()


@pytest.mark.parametrize(
    ("length", "emit"),
    [(1, None), (1, "all"), (1, "some"), (5, None), (17, "all"), (35, "some")],
)
def test_every_option(compare, length, emit, draw):
    reset = resets((0, 0), (0, length // 2), (1, 2 * length // 3), (1, length - 1), length=length)
    reset[1] &= length > 1
    compare(make(draw, length), reset=reset, emit=asked(length) if emit == "some" else emit)


VARIANTS: dict[str, dict[str, Any]] = {
    "groups": {"heads": 4, "groups": 2, "timed": True, "wide_skip": True},
    "no gate": {"without": ("z",)},
    "plain": {"without": ("D", "z", "dt_bias", "initial_state")},
    "no skip": {"without": ("D",), "groups": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 7])
def test_variants(compare, variant, length, draw):
    inputs = make(draw, length, **VARIANTS[variant])
    softplus = variant != "plain"
    if not softplus:
        inputs["dt"] = inputs["dt"].abs()
    compare(inputs, emit=asked(length) if length > 1 else None, softplus=softplus)


@pytest.mark.parametrize("length", [1, 5])
def test_several_blocks_of_a_state(compare, length, draw):
    inputs = make(draw, length, width=70, size=40)
    emit = "all" if length == 1 else asked(length)
    compare(inputs, emit=emit, reset=resets((1, 0), length=length))


@pytest.mark.parametrize(
    ("length", "kept"), [(1, (0,)), (1, (1,)), (5, (0,)), (5, (1,)), (18, (2,))]
)
def test_gradients_of_some_results(compare, kept, length, draw):
    compare(make(draw, length), kept=kept, emit="all" if length == 1 else asked(length))


@pytest.mark.parametrize("length", [1, 19])
def test_half_precision(compare, length, draw):
    """The interpreter cuts off bits where a GPU rounds to bfloat16."""
    inputs = make(draw, length, groups=2)
    reset = resets((0, length // 2), length=length)
    emit = asked(length) if length > 1 else None
    compare(inputs, HALF, torch.float16, reset=reset, emit=emit)
    compare(inputs, COARSE, torch.bfloat16, reset=reset, emit=emit)


def test_strong_decays_do_not_blur_their_neighbours(compare, draw):
    length = 32
    inputs = make(draw, length, timed=True, without=("z", "dt_bias"))
    inputs["dt"] = torch.ones(BATCH, length, HEADS)
    inputs["A"] = torch.full((BATCH, length, HEADS), -0.01)
    inputs["A"][:, 2:9] = -1000.0
    inputs["A"][:, 19::3] = -100.0
    compare(inputs, (2e-6, 1e-5), softplus=False, chunk=32)


@pytest.mark.parametrize("place", [7, 17])
def test_whatever_was_before_a_reset(operators, place, draw):
    """The same bits after it, and a gradient of exactly zero before it."""
    length = 20
    inputs, other = make(draw, length), make(draw, length)
    leaves = {name: x.float().requires_grad_() for name, x in inputs.items()}
    mixed = {
        name: torch.cat([other[name][:, :place] * 100, x[:, place:]], 1)
        if x.ndim > 2 and name != "initial_state"
        else (other[name] * 1e6 if name == "initial_state" else x)
        for name, x in inputs.items()
    }
    reset = resets((0, place), (1, place), length=length)
    index = torch.tensor([[0, place], [1, 19], [0, 18]])

    def after(given):
        y, last, emitted = run(given, reset, index)
        return y[:, place:], last, emitted

    found = after(leaves)
    for a, b in zip(found, after({name: x.float() for name, x in mixed.items()}), strict=True):
        assert torch.equal(a, b)
    grads = operators["ssd"].gradients(found, list(leaves.values()))
    for (name, x), grad in zip(leaves.items(), grads, strict=True):
        if name == "initial_state":
            assert torch.count_nonzero(grad) == 0
        elif x.ndim > 2:
            assert torch.count_nonzero(grad[:, :place]) == 0, name
            assert torch.count_nonzero(grad[:, place:]) > 0, name


def test_no_gradient_reaches_a_decay_that_a_reset_cuts(operators, draw):
    inputs = make(draw, 20, timed=True, without=("z",))
    leaves = {name: x.float().requires_grad_() for name, x in inputs.items()}
    reset = resets((0, 0), (0, 5), (0, 6), (0, 18), (1, 15), (1, 19), length=20)
    grads = operators["ssd"].gradients(run(leaves, reset, "all"), [leaves["A"]])[0]
    assert torch.count_nonzero(grads[reset]) == 0
    assert torch.count_nonzero(grads[~reset]) == grads[~reset].numel()


@pytest.mark.parametrize("place", [9, 18])
def test_not_a_number_stops_at_a_reset(place, draw):
    """In the chunk after it everywhere; in its own chunk on the way to a state."""
    inputs = {name: x.float() for name, x in make(draw, 20).items()}
    inputs["initial_state"][0] = torch.nan
    inputs["x"][0, 1], inputs["dt"][0, 2] = torch.nan, torch.nan
    inputs["B"][0, 4], inputs["C"][0, 5] = torch.nan, torch.nan
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    y, last, emitted = run(leaves, resets((0, place), length=20), "all")
    emitted = emitted.unflatten(0, (BATCH, 20))
    assert y[0, :place].isnan().all()
    assert y[0, max(place, 16) :].isfinite().all()
    assert last.isfinite().all()
    assert emitted[0, place:].isfinite().all()
    assert y[1].isfinite().all()
    total = y[0, max(place, 16) :].sum() + last.sum() + emitted[0, place:].sum()
    timed = [leaves[name] for name in ("x", "dt", "B", "C", "z")]
    for grad in torch.autograd.grad(total, timed):
        assert grad[0, max(place, 16) :].isfinite().all()
        assert grad[1].isfinite().all()


def test_two_runs_agree_bit_for_bit(operators, draw):
    leaves = {name: x.float().requires_grad_() for name, x in make(draw, 19).items()}
    twice = []
    for _ in range(2):
        results = run(leaves, resets((0, 7), length=19), asked(19))
        twice.append((*results, *operators["ssd"].gradients(results, list(leaves.values()))))
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


def test_two_parts_with_the_carried_state_are_one_run(operators, draw):
    tools, cut = operators["ssd"], 6
    leaves = {name: x.float().requires_grad_() for name, x in make(draw, 23).items()}
    reset = resets((0, 7), (1, 20), length=23)

    def part(steps: slice, state: Tensor):
        timed = {k: x[:, steps] for k, x in leaves.items() if x.ndim > 2}
        return run(leaves | timed | {"initial_state": state}, reset[:, steps].contiguous())

    whole = run(leaves, reset)
    first, state, _ = part(slice(cut), leaves["initial_state"])
    second, last, _ = part(slice(cut, None), state)
    parts = (torch.cat([first, second], 1), last, None)
    tools.assert_near(parts, whole, 1e-6)
    values = list(leaves.values())
    wanted = tools.gradients(whole, values)
    tools.assert_near(tools.gradients(parts, values), wanted, 5e-6, list(leaves))


def test_chunks_of_any_length(operators, draw):
    inputs = {name: x.float() for name, x in make(draw, 23).items()}
    reset = resets((0, 7), (1, 20), length=23)
    results = [run(inputs, reset, asked(23), chunk) for chunk in (1, 24, 64)]
    for found in results[1:]:
        operators["ssd"].assert_near(found, results[0], 1e-6)


def test_no_state_is_asked_for(draw):
    leaves = {name: x.float().requires_grad_() for name, x in make(draw, 5).items()}
    y, last, emitted = run(leaves, emit=asked(5)[:0])
    assert emitted.shape == (0, *last.shape[1:])
    total = y.sum() + emitted.sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, list(leaves.values())))


def test_strided_inputs(draw):
    inputs = {name: x.float() for name, x in make(draw, 5).items()}
    turned = {name: x.mT.contiguous().mT if x.ndim > 1 else x for name, x in inputs.items()}
    for a, b in zip(run(turned, emit="all"), run(inputs, emit="all"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("length", [1, 5])
def test_compiled_as_one_graph(operators, length, draw):
    leaves = {name: x.float().requires_grad_() for name, x in make(draw, length).items()}
    reset, emit = resets((0, length // 2), length=length), asked(length) if length > 1 else None
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    values = list(leaves.values())
    twice = []
    for function in (run, compiled):
        results = function(leaves, reset, emit)
        twice.append((*results, *operators["ssd"].gradients(results, values)))
    for a, b in zip(*twice, strict=True):
        assert a is b if a is None else torch.equal(a, b)
