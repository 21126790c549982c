"""`Attention` against a softmax over the rows that each row may see, with rotation written out."""

import cmath
import math

import numpy as np
import pytest
import torch

from worldmodels.backbones.attention import PERIOD, Attention
from worldmodels.backbones.base import State
from worldmodels.backbones.configs import AttentionOptions

WIDTH, HEADS = 12, 2
SIZE = WIDTH // HEADS


def make(window: int, width: int = WIDTH, heads: int = HEADS) -> Attention:
    """In float64, with random weights and biases."""
    layer = Attention(AttentionOptions(heads=heads, window=window), width).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=width**-0.5)
    return layer


def start(layer: Attention, batch: int, position: int = 0) -> State:
    """The initial state in float64; or one of that age, full of random rows."""
    state = layer.initial(batch)
    draw = torch.randn_like if position else torch.zeros_like
    leaves = {name: draw(state[name]).double() for name in ("key", "value")}
    return State(leaves | {"position": torch.full_like(state["position"], position)})


def inputs(batch: int, length: int, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64)


def resets(batch: int, length: int, *at: tuple[int, int]) -> torch.Tensor:
    reset = torch.zeros(batch, length, dtype=torch.bool)
    for b, t in at:
        reset[b, t] = True
    return reset


def speeds(size: int) -> list[float]:
    """Angle per row of every pair: 10000^(-2 i / P), in whole turns per `PERIOD` rows."""
    whole = 2 * math.pi / PERIOD
    return [round(10_000 ** (-2 * i / size) / whole) * whole for i in range(size // 2)]


def rotated(x: np.ndarray, position: int) -> np.ndarray:
    """Pairs (i, i + P / 2) of x [P] as complex numbers, turned by their speeds times position."""
    half = len(x) // 2
    pairs = [
        complex(x[i], x[i + half]) * cmath.rect(1, position * speed)
        for i, speed in enumerate(speeds(len(x)))
    ]
    return np.array([z.real for z in pairs] + [z.imag for z in pairs])


def rows(layer: Attention, u: torch.Tensor, positions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotated queries, rotated keys and values [B, T, H, P] of u [B, T, D]."""
    weight, bias = (p.detach().numpy() for p in (layer.qkv.weight, layer.qkv.bias))
    gains = [norm.weight.detach().numpy() for norm in (layer.query_norm, layer.key_norm)]
    query, key, value = (np.zeros((*u.shape[:2], layer.heads, layer.size)) for _ in range(3))
    width = u.shape[2]
    for b, t, head in np.ndindex(*query.shape[:3]):
        for i, part in enumerate((query, key, value)):
            low = i * width + head * layer.size
            x = weight[low : low + layer.size] @ u[b, t].numpy() + bias[low : low + layer.size]
            if part is not value:
                x = rotated(x / math.sqrt((x * x).mean() + 1e-5) * gains[i], positions[b][t])
            part[b, t, head] = x
    return query, key, value


def ages(reset: torch.Tensor) -> list[list[int]]:
    """Rows since the last reset or the beginning."""
    found = []
    for row in reset.tolist():
        age, out = -1, []
        for cut in row:
            age = 0 if cut else age + 1
            out.append(age)
        found.append(out)
    return found


def dense(layer: Attention, u: torch.Tensor, reset: torch.Tensor) -> torch.Tensor:
    """h [B, T, D] from an empty state."""
    age = ages(reset)
    query, key, value = rows(layer, u, age)
    mixed = np.zeros(u.shape)
    for b, t, head in np.ndindex(*query.shape[:3]):
        seen = range(t - min(age[b][t], layer.window - 1), t + 1)
        scores = [query[b, t, head] @ key[b, s, head] / math.sqrt(layer.size) for s in seen]
        weights = [math.exp(score) for score in scores]
        low = head * layer.size
        for s, weight in zip(seen, weights, strict=True):
            share = weight / sum(weights) * value[b, s, head]
            mixed[b, t, low : low + layer.size] += share
    weight, bias = (p.detach().numpy() for p in (layer.out.weight, layer.out.bias))
    return torch.from_numpy(mixed @ weight.T + bias)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(
        found.detach(), expected.detach(), rtol=tolerance, atol=tolerance, check_dtype=False
    )


def stepwise(
    layer: Attention, u: torch.Tensor, state: State, reset: torch.Tensor
) -> tuple[torch.Tensor, State]:
    """h [B, T, D] and every state in the order b * T + t, by single steps."""
    outputs, states = [], []
    for t in range(u.shape[1]):
        h, state = layer.step(u[:, t], state, reset[:, t])
        outputs.append(h)
        states.append(state)
    every = {name: torch.stack([some[name] for some in states], 1) for name in state}
    return torch.stack(outputs, 1), State({k: leaf.flatten(0, 1) for k, leaf in every.items()})


def at_once(
    layer: Attention, u: torch.Tensor, state: State, reset: torch.Tensor
) -> tuple[torch.Tensor, State]:
    """The same by `sequence`."""
    h, _, states = layer.sequence(u, state, reset, "all")
    assert states is not None
    return h, states


both = pytest.mark.parametrize("run", [stepwise, at_once])


LENGTHS = [(4, 4), (4, 16), (4, 3), (4, 13), (8, 9), (1, 5), (2, 7), (16, 1)]
"""Window C and rows T: T a multiple of C, smaller, and neither."""


@pytest.mark.parametrize(("window", "length"), LENGTHS)
@pytest.mark.parametrize("cut", [False, True])
@both
def test_outputs_are_the_softmax_over_what_a_row_may_see(window, length, cut, run):
    layer, u = make(window), inputs(3, length)
    reset = torch.rand(3, length) < 0.25 if cut else resets(3, length)
    close(run(layer, u, start(layer, 3), reset)[0], dense(layer, u, reset))


@pytest.mark.parametrize(("window", "length"), LENGTHS)
def test_a_carried_state_holds_what_the_window_sees(window, length):
    """Cut after row k, with resets before and after: the same numbers as in one piece."""
    layer, u = make(window), inputs(3, 2 * length + 6)
    reset = resets(3, 2 * length + 6, (1, 2), (1, 6), (2, length + 4))
    expected = dense(layer, u, reset)
    for k in (1, 5, length + 3):
        _, state, _ = layer.sequence(u[:, :k], start(layer, 3), reset[:, :k])
        close(layer.sequence(u[:, k:], state, reset[:, k:])[0], expected[:, k:])
        close(stepwise(layer, u[:, k:], state, reset[:, k:])[0], expected[:, k:])


@pytest.mark.parametrize(("width", "heads"), [(12, 1), (12, 6), (2, 1), (64, 2)])
def test_widths_and_heads(width, heads):
    layer, u = make(4, width, heads), inputs(2, 6, width)
    reset = resets(2, 6, (1, 3))
    close(layer.sequence(u, start(layer, 2), reset)[0], dense(layer, u, reset))


def test_rotations_are_the_published_ones_to_whole_turns():
    """Per row off by half a turn in `PERIOD` rows at most; the slowest pair still turns."""
    layer = Attention(AttentionOptions(heads=1), 128)
    found = layer.turns.double() * 2 * math.pi / PERIOD
    published = 10_000 ** (-torch.arange(64).double() / 64)
    assert float((found - published).abs().max()) <= math.pi / PERIOD
    assert float(layer.turns.min()) >= 1
    close(found, torch.tensor(speeds(128), dtype=torch.float64))


POSITIONS = [4, 7, PERIOD - 9, PERIOD - 2, PERIOD, 2 * PERIOD - 11, 2 * PERIOD - 1]


@pytest.mark.parametrize("position", POSITIONS)
@both
def test_only_distance_counts_also_where_positions_wrap(position, run):
    """After C rows nothing old is seen: the same h as at the beginning of time."""
    window, length = 4, 23
    layer, u = make(window), inputs(2, length)
    never, full = resets(2, length), slice(window - 1, None)
    expected = dense(layer, u, never)[:, full]
    h, states = run(layer, u, start(layer, 2, position), never)
    close(h[:, full], expected)
    after = [position + t + 1 for t in range(length)]
    assert states["position"].tolist() == 2 * [x - PERIOD * (x >= 2 * PERIOD) for x in after]


@pytest.mark.parametrize("position", [4, PERIOD - 3, PERIOD - 1])
@both
def test_a_period_later_is_the_same_to_the_bit(position, run):
    layer, u, never = make(4), inputs(2, 9), resets(2, 9)
    early = start(layer, 2, position)
    late = State({**early, "position": early["position"] + PERIOD})
    h, states = run(layer, u, early, never)
    h_late, states_late = run(layer, u, late, never)
    assert torch.equal(h, h_late)
    assert torch.equal(states["key"], states_late["key"])
    assert torch.equal(states["value"], states_late["value"])


def test_late_positions_keep_their_digits_in_float32():
    layer, u, never = make(4).float(), inputs(1, 40).float(), resets(1, 40)
    expected = dense(layer.double(), u.double(), never)[:, 3:]
    for position in (4, PERIOD - 20, 2 * PERIOD - 20):
        late = start(layer, 1, position).map(lambda x: x.float() if x.is_floating_point() else x)
        close(layer.float().sequence(u, late, never)[0][:, 3:], expected, 2e-6)


@pytest.mark.parametrize(("window", "length"), [(4, 11), (8, 5), (1, 4)])
@both
def test_the_window_ends_where_it_says(window, length, run):
    """h_t reads u_{t - C + 1} to u_t and nothing else, to the bit."""
    layer, never = make(window), resets(1, length)
    u = inputs(1, length).requires_grad_()
    h, _ = run(layer, u, start(layer, 1), never)
    for t in range(length):
        (influence,) = torch.autograd.grad(h[0, t].sum(), u, retain_graph=True)
        expected = [t - window < s <= t for s in range(length)]
        assert influence[0].bool().any(1).tolist() == expected
    other = u.detach().clone()
    other[0, 0] += 100
    differs = (run(layer, other, start(layer, 1), never)[0] != h).any(2)
    assert differs[0].tolist() == [t < window for t in range(length)]


@pytest.mark.parametrize("position", [3, 4, 100, 2 * PERIOD - 2])
@both
def test_a_reset_cuts_the_cached_rows(position, run):
    """Another cache, of another age, and other inputs before: the same to the bit afterwards."""
    layer, u = make(4), inputs(2, 10)
    reset = resets(2, 10, (0, 0), (1, 3))
    other = u.clone()
    other[1, :3] = inputs(1, 3)
    h, states = run(layer, u, start(layer, 2, position), reset)
    h_other, states_other = run(layer, other, start(layer, 2), reset)
    close(h_other, dense(layer, other, reset))
    for rows_after in (slice(0, 10), slice(13, 20)):
        assert torch.equal(h.flatten(0, 1)[rows_after], h_other.flatten(0, 1)[rows_after])
        for name in states:
            assert torch.equal(states[name][rows_after], states_other[name][rows_after]), name
    assert not torch.equal(h[1, :3], h_other[1, :3])


@pytest.mark.parametrize(("window", "length"), LENGTHS)
def test_emitted_states_hold_every_row_of_the_window_in_its_slot(window, length):
    """Slot p % C holds row p of the segment, rotated; empty slots are zero; position counts on."""
    layer, u = make(window), inputs(2, length)
    reset = resets(2, length, (1, length // 2), (1, length - 1))
    age = ages(reset)
    _, key, value = rows(layer, u, age)
    expected = {name: np.zeros((2, length, window, HEADS, SIZE)) for name in ("key", "value")}
    for b, t in np.ndindex(2, length):
        for back in range(min(age[b][t] + 1, window)):
            slot = (age[b][t] - back) % window
            expected["key"][b, t, slot] = key[b, t - back]
            expected["value"][b, t, slot] = value[b, t - back]

    pairs = torch.tensor([[1, length - 1], [0, 0], [1, length // 2], [0, 0]])
    ends = torch.tensor([[0, length - 1], [1, length - 1]])
    whole = torch.cartesian_prod(torch.arange(2), torch.arange(length))
    _, last, some = layer.sequence(u, start(layer, 2), reset, pairs)
    assert some is not None
    for state, at in (
        (at_once(layer, u, start(layer, 2), reset)[1], whole),
        (stepwise(layer, u, start(layer, 2), reset)[1], whole),
        (some, pairs),
        (last, ends),
    ):
        assert state["position"].tolist() == [age[b][t] + 1 for b, t in at.tolist()]
        for name, every in expected.items():
            wanted = torch.from_numpy(every)[at[:, 0], at[:, 1]]
            close(state[name], wanted)
            assert torch.equal(state[name] == 0, wanted == 0), name  # empty slots, to the bit


def test_parameters():
    """Rotations are no parameters and are not stored."""
    found = {k: tuple(v.shape) for k, v in Attention(AttentionOptions(), 16).state_dict().items()}
    assert found == {
        "qkv.weight": (48, 16),
        "qkv.bias": (48,),
        "query_norm.weight": (4,),
        "key_norm.weight": (4,),
        "out.weight": (16, 16),
        "out.bias": (16,),
    }


@pytest.mark.parametrize(("width", "heads"), [(12, 4), (12, 0), (9, 3), (8, -2)])
def test_widths_that_do_not_fit(width, heads):
    with pytest.raises(ValueError, match=f"width {width} is no multiple of 2 \\* heads"):
        Attention(AttentionOptions(heads=heads), width)


@pytest.mark.parametrize("window", [0, 3, 12, -4, 2 * PERIOD])
def test_windows_that_do_not_fit(window):
    with pytest.raises(ValueError, match=f"a power of two up to {PERIOD}, not {window}"):
        Attention(AttentionOptions(heads=2, window=window), 8)
