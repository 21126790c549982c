"""The algebra of `State`, against plain indexing of each leaf."""

from typing import Any, cast

import pytest
import torch

from worldmodels.backbones.base import LeafSpec, State, Stratified, emit_states, gather_rows


@pytest.fixture
def state() -> State:
    return State({"h": torch.arange(12.0).view(3, 4), "age": torch.tensor([5, 6, 7])})


def test_rows(state):
    assert state.index(torch.tensor([2, 0, 2]))["age"].tolist() == [7, 5, 7]
    assert state.expand(2)["age"].tolist() == [5, 5, 6, 6, 7, 7]
    other = state.map(lambda leaf: leaf + 100)
    mixed = state.where(torch.tensor([True, False, True]), other)
    assert mixed["age"].tolist() == [5, 106, 7]
    assert mixed["h"][:, 0].tolist() == [0.0, 104.0, 8.0]
    joined = State.cat([state, other])
    assert (joined.batch_size, joined["age"].dtype) == (6, torch.int64)
    first, second, third = joined.split([1, 3, 2])
    assert [part["age"].tolist() for part in (first, second, third)] == [
        [5],
        [6, 7, 105],
        [106, 107],
    ]


def test_gradient_and_memory(state):
    h = state["h"].requires_grad_()
    attached = State({"h": h * 2})
    assert attached.index(torch.tensor([0]))["h"].requires_grad
    assert not attached.detach()["h"].requires_grad
    copy = state.clone()
    copy["age"].add_(1)
    assert state["age"].tolist() == [5, 6, 7]
    assert state.nbytes_per_row == 4 * 4 + 8


def test_leaves_of_different_batch_size_are_refused():
    with pytest.raises(ValueError, match="differ in batch size"):
        State({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"g": LeafSpec((4,)), "age": LeafSpec((), torch.int64)},
        {"h": LeafSpec((5,)), "age": LeafSpec((), torch.int64)},
        {"h": LeafSpec((4,), torch.bfloat16), "age": LeafSpec((), torch.int64)},
        {"h": LeafSpec((4,))},
    ],
    ids=["name", "shape", "dtype", "missing"],
)
def test_load_refuses_what_does_not_fit(state, wrong):
    spec = {"h": LeafSpec((4,)), "age": LeafSpec((), torch.int64)}
    assert State.load(state.save(), spec)["h"] is state["h"]
    with pytest.raises(ValueError, match="does not fit"):
        State.load(state.save(), wrong)


def test_emitted_rows_are_batch_major():
    """Row b * T + t of "all" is (b, t)."""
    x = torch.tensor([[[0, 0], [0, 1], [0, 2]], [[1, 0], [1, 1], [1, 2]]])  # [B, T, (b, t)]
    assert gather_rows(x, "all").tolist() == [[b, t] for b in range(2) for t in range(3)]
    index = torch.tensor([[1, 2], [0, 1], [1, 2]])
    assert gather_rows(x, index).tolist() == index.tolist()
    states = [State({"x": x[:, t]}) for t in range(3)]
    for emit in ("all", index):
        emitted = emit_states(states, emit)
        assert emitted is not None
        assert torch.equal(emitted["x"], gather_rows(x, emit))
    drawn = Stratified(torch.tensor([[1, 0], [0, 0], [1, 1]]))
    assert drawn.index.tolist() == [[1, 0], [0, 0], [0, 1], [0, 1], [1, 2], [1, 2]]
    emitted = emit_states(states, drawn)
    assert emitted is not None
    assert torch.equal(emitted["x"], x[drawn.index[:, 0], drawn.index[:, 1]])
    assert emit_states(states, None) is None
    with pytest.raises(ValueError, match="'most'"):
        gather_rows(x, cast(Any, "most"))
