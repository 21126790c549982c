"""The four carry modes: which windows they give, with which state before row 0."""

import numpy as np
import pytest
import torch

from worldmodels.backbones.base import LeafSpec
from worldmodels.errors import UserError
from worldmodels.objects import Carry
from worldmodels.replay import Replay
from worldmodels.replay.carry import make_carry, settle_carry
from worldmodels.replay.packing import Packing


def filled(toys, rows=40, lanes=2, **options):
    stream, replay = toys.Stream(lanes), toys.replay(lanes, **options)
    stream.add_to(replay, rows)
    return stream, replay


def test_zero_resets_at_the_start_and_where_episodes_start(toys):
    _, replay = filled(toys, carry="zero")
    batch = replay.sample(16, 4)
    assert batch.carry is None
    assert batch.burnin == 0
    assert batch.reset[:, 0].all()
    assert torch.equal(batch.reset[:, 1:], batch.is_first[:, 1:])
    assert not batch.is_first[:, 0].all()


def test_burnin_adds_rows_in_front(toys):
    stream, replay = filled(toys, carry="burnin:3", rows=7)
    assert replay.eligible(4) == 2
    batch = replay.sample(16, 4)
    assert batch.index.shape == (16, 7)
    assert batch.burnin == 3
    assert batch.carry is None
    assert batch.reset[:, 0].all()
    stream.check(batch)


def test_stored_gives_back_what_was_written_at_the_row_before(toys):
    stream, replay = filled(toys, carry="stored", batch_length=5)
    ids = list(stream.log)
    known = set(ids[::3])
    replay.update(np.array(sorted(known)), toys.carry_of(sorted(known)))
    for _ in range(20):
        batch = replay.sample(8, 5)
        stream.check(batch)
        assert batch.carry is not None
        for b, start in enumerate(batch.index[:, 0].tolist()):
            has = start - 1 in known
            assert batch.reset[b, 0] == (batch.is_first[b, 0] | (not has))
            expected = toys.carry_of([start - 1]) if has else toys.carry_of([0]).map(
                torch.zeros_like
            )  # fmt: skip
            assert toys.same_carry(batch.carry.index(torch.tensor([b])), expected)
        assert torch.equal(batch.reset[:, 1:], batch.is_first[:, 1:])


def test_stored_is_refreshed_and_forgets_rows_that_left(toys):
    stream, replay = filled(toys, rows=20, lanes=1, carry="stored", capacity=40, segment=4)
    ids = torch.tensor([5, 6, 5])
    replay.update(ids, toys.carry_of([1, 2, 3]))
    before = replay._store.gather([5])
    assert toys.same_carry(replay._carry._packing.unpack(before)[0], toys.carry_of([3]))
    stream.add_to(replay, 60)
    replay.update(ids, toys.carry_of([1, 2, 3]))
    for _ in range(10):
        assert replay.sample(8, 4).reset[:, 0].all()


def test_stored_ignores_rows_that_have_not_arrived(toys):
    stream, replay = filled(toys, rows=6, lanes=1, carry="stored")
    replay.update(torch.arange(6, 10), toys.carry_of([6, 7, 8, 9]))
    stream.add_to(replay, 10)
    for _ in range(10):
        assert replay.sample(8, 4).reset[:, 0].all()


def test_a_large_state_is_not_stored(toys):
    spec = {"h": LeafSpec((16 * 1024,)), "z": LeafSpec((32, 64))}
    with pytest.raises(UserError, match=r"64 KiB.*burnin:8"):
        Replay(toys.Options(carry="stored"), toys.spec(), spec, 1, None, seed=0)
    with pytest.raises(UserError, match="needs a model with a state"):
        Replay(toys.Options(carry="stored"), toys.spec(), None, 1, None, seed=0)


@pytest.mark.parametrize("text", ["store", "burnin", "burnin:0", "burnin:x", ""])
def test_unknown_modes_are_refused(toys, text):
    with pytest.raises(UserError, match="is not one of"):
        toys.replay(carry=text)


def test_update_checks_what_it_is_given(toys):
    _, replay = filled(toys, carry="stored")
    with pytest.raises(ValueError, match="for 2 states"):
        replay.update(torch.arange(3), toys.carry_of([1, 2]))
    with pytest.raises(ValueError, match="does not fit"):
        replay.update(torch.arange(2), toys.carry_of([1, 2]).map(torch.Tensor.double))


def test_continue_goes_on_where_it_stopped(toys):
    stream, replay = filled(toys, rows=100, lanes=3, carry="continue", capacity=2000)
    batch = replay.sample(4, 4)
    assert batch.reset[:, 0].all()
    continued = 0
    for _ in range(40):
        ids = batch.index.flatten()
        replay.update(ids, toys.carry_of(ids.tolist()))
        following = replay.sample(4, 4)
        stream.check(following)
        assert following.carry is not None
        for b in range(4):
            start, stopped = int(following.index[b, 0]), int(batch.index[b, -1])
            if replay._store.holds(stopped + 1, 4):
                assert start == stopped + 1
                continued += 1
                carry = following.carry.index(torch.tensor([b]))
                assert toys.same_carry(carry, toys.carry_of([stopped]))
                assert following.reset[b, 0] == following.is_first[b, 0]
            else:
                assert following.reset[b, 0]
        starts = following.index[:, 0]
        apart = (starts[:, None] - starts[None, :]).abs() + 100 * torch.eye(4).long()
        assert (apart >= 4).all()
        batch = following
    assert continued > 100


def test_continue_without_update_starts_from_zeros(toys):
    _, replay = filled(toys, rows=100, carry="continue")
    first = replay.sample(4, 4)
    replay.update(first.index[:, 0], toys.carry_of([1, 2, 3, 4]))
    assert replay.sample(4, 4).reset[:, 0].all()
    assert replay.sample(4, 4, "imagine").carry is None
    with pytest.raises(ValueError, match="keeps 4 streams"):
        replay.sample(5, 4)


def test_packing_is_exact_for_every_class_and_type():
    spec = {"z": LeafSpec((1, 300)), "h": LeafSpec((2,), torch.bfloat16), "p": LeafSpec((), torch.int32)}  # fmt: skip  # noqa: E501
    packing = Packing(spec)
    carry = Carry(
        {
            "z": torch.eye(300)[:, None],
            "h": torch.randn(300, 2).bfloat16(),
            "p": torch.arange(300, dtype=torch.int32),
        }
    )
    again, known = packing.unpack(packing.pack(carry))
    assert known.all()
    assert all(torch.equal(carry[name], again[name]) for name in spec)
    assert packing.column.nbytes == 2 + 4 + 4 + 1
    assert Packing({"z": LeafSpec((32, 255))}).column.nbytes == 33


@pytest.mark.parametrize(
    ("leaves", "mode"),
    [
        ({"h": (512,)}, "stored"),
        ({"h": (512,), "backbone.memory": (512,), "backbone.age": ()}, "stored"),
        ({"h": (512,), "backbone.ssm": (8, 16)}, "burnin:8"),
        ({"h": (20_000,)}, "burnin:8"),
    ],
)
def test_auto_stores_vectors_and_warms_up_the_rest(leaves, mode):
    spec = {name: LeafSpec(shape) for name, shape in leaves.items()} | {"z": LeafSpec((4, 4))}
    assert settle_carry("auto", spec) == mode
    make_carry(mode, spec, streams=2)  # what auto chooses is never refused
    assert settle_carry("zero", spec) == "zero"
