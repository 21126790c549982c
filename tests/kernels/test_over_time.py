"""What holds for every operator over time: resets, carried and emitted states."""

from typing import Any

import pytest
import torch
from torch import Tensor

BATCH = 3
IMPLEMENTATIONS = ("reference", "eager")
RESETS = {
    "none": None,
    "first": [0],
    "middle": [4],
    "two in a row": [3, 4],
    "first and last": [0, -1],
    "all": slice(None),
}
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def make_reset(length: int, places: Any) -> Tensor | None:
    """Row 0 has the resets, row 1 none, row 2 the mirror image."""
    if places is None:
        return None
    reset = torch.zeros(BATCH, length, dtype=torch.bool)
    if not isinstance(places, slice):
        places = [place for place in places if -length <= place < length]
    reset[0, places] = True
    reset[2] = reset[0].flip(0)
    return reset


def positions(length: int) -> Tensor:
    """Out of order, some twice, the first and the last step among them."""
    steps = [0, length - 1, length // 2, length - 1, length // 3]
    return torch.tensor([[2, 1, 0, 2, 2], [min(s, length - 1) for s in steps]]).T.contiguous()


def compare(over_time, inputs, reset, emit, dtype, tolerances, **kwargs) -> None:
    """Eager in `dtype` against the reference in float64, values and every gradient."""
    exact = over_time.leaf(inputs)
    expected = over_time(exact, reset, emit, implementation="reference", **kwargs)
    given = over_time.leaf(inputs, dtype)
    found = over_time(given, reset, emit, implementation="eager", **kwargs)
    assert found[0].dtype == dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(state is None or state.dtype == wide for state in found[1:])
    over_time.assert_near(found, expected, tolerances[0], ("y", "last", "emitted"))
    grads = over_time.gradients(found, list(given.values()))
    assert all(g.dtype == x.dtype for g, x in zip(grads, given.values(), strict=True))
    wanted = over_time.gradients(expected, list(exact.values()))
    over_time.assert_near(grads, wanted, tolerances[1], list(given))


@pytest.mark.parametrize("places", RESETS)
@pytest.mark.parametrize("length", [1, 2, 5, 7, 13])
@pytest.mark.parametrize("emit", [None, "all", "some"])
def test_eager_equals_the_reference(over_time, length, places, emit, draw):
    inputs = over_time.make(BATCH, length, draw)
    emit = positions(length) if emit == "some" else emit
    reset = make_reset(length, RESETS[places])
    compare(over_time, inputs, reset, emit, torch.float64, (1e-10, 1e-10))
    compare(over_time, inputs, reset, emit, torch.float32, (1e-5, 5e-5))


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 1)])
@pytest.mark.parametrize("emit", ["all", "some"])
@pytest.mark.parametrize("length", [1, 7])
def test_gradients_of_some_results(over_time, length, emit, kept, draw):
    """As when states are emitted to start imagination from, which sends no gradient back."""
    reset = make_reset(length, [length // 2])
    emit, found = positions(length) if emit == "some" else emit, []
    inputs = over_time.leaf(over_time.make(BATCH, length, draw))
    for implementation in IMPLEMENTATIONS:
        results = over_time(inputs, reset, emit, implementation=implementation)
        found.append(over_time.gradients([results[k] for k in kept], list(inputs.values())))
    over_time.assert_near(found[1], found[0], 1e-10, list(inputs))


@implementations
def test_gradients_by_finite_differences(over_time, implementation, draw):
    inputs = over_time.leaf(over_time.make(2, 5, draw))
    reset = torch.zeros(2, 5, dtype=torch.bool)
    reset[0, 0] = reset[1, 2] = True
    emit = torch.tensor([[0, 1], [1, 3], [0, 1], [1, 4]])

    def results(*values):
        given = dict(zip(inputs, values, strict=True))
        return over_time(given, reset, emit, implementation=implementation)

    assert torch.autograd.gradcheck(results, list(inputs.values()), fast_mode=True)


@implementations
@pytest.mark.parametrize("split", [1, 3, 6])
def test_two_parts_with_the_carried_state_are_one_run(over_time, implementation, split, draw):
    length = 7
    inputs = over_time.leaf(over_time.make(BATCH, length, draw))
    reset = make_reset(length, [2])
    assert reset is not None
    whole = over_time(inputs, reset, implementation=implementation)
    first, between, _ = over_time(
        over_time.cut(inputs, slice(split)), reset[:, :split], implementation=implementation
    )
    second, last, _ = over_time(
        over_time.cut(inputs, slice(split, None), between),
        reset[:, split:],
        implementation=implementation,
    )
    parts = (torch.cat([first, second], 1), last, None)
    over_time.assert_near(parts, whole, 1e-12)
    leaves = list(inputs.values())
    over_time.assert_near(
        over_time.gradients(parts, leaves), over_time.gradients(whole, leaves), 1e-11, list(inputs)
    )


@implementations
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_reset_is_a_fresh_start(over_time, implementation, place, draw):
    inputs = over_time.make(BATCH, 7, draw)
    reset = torch.zeros(BATCH, 7, dtype=torch.bool)
    plain = over_time(inputs, reset, implementation=implementation)
    reset[1, place] = True
    y, last, _ = over_time(inputs, reset, implementation=implementation)
    zeros = torch.zeros_like(inputs["state"])
    after = over_time.cut(inputs, slice(place, None), zeros)
    fresh, fresh_last, _ = over_time(after, implementation=implementation)
    over_time.assert_near((y[1, place:], last[1]), (fresh[1], fresh_last[1]), 1e-12)
    if over_time.name != "ssd":  # whose products may sum in another order
        assert torch.equal(y[1, :place], plain[0][1, :place])
    over_time.assert_near(
        (y[1, :place],) if place else (), (plain[0][1, :place],) if place else (), 1e-12
    )
    assert torch.equal(y[[0, 2]], plain[0][[0, 2]])


@implementations
@pytest.mark.parametrize("emit", [None, "all", "some"])
def test_the_past_is_cut_bit_for_bit(over_time, implementation, emit, draw):
    """Whatever lies before the reset: the same bits after it, and a gradient of exactly zero."""
    length, place = 7, 4
    reset = torch.zeros(BATCH, length, dtype=torch.bool)
    reset[:, place] = True
    index = torch.tensor([[0, 4], [2, 6], [1, 5]])
    emit = index if emit == "some" else emit
    inputs = over_time.leaf(over_time.make(BATCH, length, draw))
    other = over_time.make(BATCH, length, draw)
    mixed = {
        name: torch.cat([other[name][:, :place] * 100, x[:, place:]], 1)
        if name in over_time.timed
        else (other[name] * 1e6 if name == "state" else x)
        for name, x in inputs.items()
    }

    def after(given):
        y, last, emitted = over_time(given, reset, emit, implementation=implementation)
        if isinstance(emit, str):
            emitted = emitted.unflatten(0, (BATCH, length))[:, place:]
        return [part for part in (y[:, place:], last, emitted) if part is not None]

    found = after(inputs)
    for a, b in zip(found, after(mixed), strict=True):
        assert torch.equal(a, b)
    for name, grad in zip(inputs, over_time.gradients(found, list(inputs.values())), strict=True):
        if name in over_time.timed:
            assert torch.count_nonzero(grad[:, :place]) == 0, name
            assert torch.count_nonzero(grad[:, place:]) > 0, name
        elif name == "state":
            assert torch.count_nonzero(grad) == 0


@implementations
def test_not_a_number_stops_at_a_reset(over_time, implementation, draw):
    """It may pass through the masked products of chunks, but not through a loop over time."""
    chunks = over_time.name == "ssd" and implementation == "eager"
    inputs = over_time.make(BATCH, 6, draw)
    inputs["state"][0] = torch.nan
    inputs[over_time.timed[0]][0, 1] = torch.nan
    reset = torch.zeros(BATCH, 6, dtype=torch.bool)
    reset[:, 3] = True
    inputs, emit = over_time.leaf(inputs), "all" if chunks else None
    y, last, _ = over_time(inputs, reset, emit, implementation=implementation)
    assert y[0, :3].isnan().any()
    assert y[0, 3:].isfinite().all()
    assert y[1:].isfinite().all()
    assert last.isfinite().all()
    if not chunks:
        (grad,) = torch.autograd.grad(y[:, 3:].sum(), inputs[over_time.timed[0]])
        assert grad[:, 3:].isfinite().all()


@implementations
def test_an_emitted_state_is_the_last_of_a_shorter_run(over_time, implementation, draw):
    length = 8
    inputs = over_time.make(BATCH, length, draw)
    reset = make_reset(length, [0, 3])
    assert reset is not None
    everything = torch.stack(
        [
            over_time(
                over_time.cut(inputs, slice(t + 1)), reset[:, : t + 1], implementation="reference"
            )[1]
            for t in range(length)
        ],
        1,
    )
    emitted = over_time(inputs, reset, "all", implementation=implementation)[2]
    over_time.assert_near((emitted,), (everything.flatten(0, 1),), 1e-12)
    index = positions(length)
    emitted = over_time(inputs, reset, index, implementation=implementation)[2]
    over_time.assert_near((emitted,), (everything[index[:, 0], index[:, 1]],), 1e-12)
    nothing = over_time(inputs, reset, index[:0], implementation=implementation)[2]
    assert nothing.shape == (0, *everything.shape[2:])


@implementations
def test_the_future_does_not_matter(over_time, implementation, draw):
    inputs = over_time.make(BATCH, 8, draw)
    y = over_time(inputs, implementation=implementation)[0]
    changed = {
        name: x.index_fill(1, torch.arange(5, 8), 3.0) if name in over_time.timed else x
        for name, x in inputs.items()
    }
    again = over_time(changed, implementation=implementation)[0]
    assert torch.equal(y[:, :5], again[:, :5])
    assert not torch.equal(y[:, 5:], again[:, 5:])


@implementations
def test_rows_are_independent(over_time, implementation, draw):
    inputs, order = over_time.make(BATCH, 7, draw), torch.tensor([2, 0, 1])
    reset = make_reset(7, [3])
    assert reset is not None
    found = over_time(inputs, reset, "all", implementation=implementation)
    turned = over_time(
        over_time.rows(inputs, order), reset[order], "all", implementation=implementation
    )
    over_time.assert_near(turned[:2], [part[order] for part in found[:2]], 1e-14)
    emitted = found[2].unflatten(0, (BATCH, 7))[order].flatten(0, 1)
    over_time.assert_near(turned[2:], (emitted,), 1e-14)


@implementations
def test_steps_one_by_one(over_time, implementation, draw):
    inputs = over_time.make(BATCH, 6, draw)
    reset = make_reset(6, [2])
    assert reset is not None
    whole = over_time(inputs, reset, implementation=implementation)
    state, outputs = inputs["state"], []
    for t in range(6):
        here = slice(t, t + 1)
        part = over_time.cut(inputs, here, state)
        y, state, _ = over_time(part, reset[:, here], implementation=implementation)
        outputs.append(y)
    over_time.assert_near((torch.cat(outputs, 1), state), whole[:2], 1e-12)


def test_without_an_initial_state_it_is_zero(over_time, draw):
    inputs = over_time.make(BATCH, 5, draw)
    zeros = inputs | {"state": torch.zeros_like(inputs["state"])}
    nothing: dict[str, Any] = {**inputs, "state": None}
    for implementation in IMPLEMENTATIONS:
        expected = over_time(zeros, None, "all", implementation=implementation)
        found = over_time(nothing, None, "all", implementation=implementation)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
