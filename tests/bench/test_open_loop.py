"""A world whose future is known: the observation at a row is the sum of the actions so far.

The rows of a window are numbered; a model that adds up the actions predicts each of them exactly.
"""

import pytest
import torch

from worldmodels.backbones.base import State
from worldmodels.bench.open_loop import QUANTITIES, Errors, Truth, constant, copied, imagined
from worldmodels.objects import Batch, Latents
from worldmodels.sockets import Prediction

CONTEXT, HORIZON, WINDOWS = 3, 4, 6


@pytest.fixture
def make_windows():
    """`make_windows(is_first=...)`: reward is half the sum, a sum above 0.3 is terminal."""

    def make(**fields) -> Batch:
        shape = (WINDOWS, CONTEXT + HORIZON)
        action = torch.rand(*shape, 1) - 0.5
        total = action.cumsum(1)
        no = torch.zeros(shape, dtype=torch.bool)
        given = {
            "obs": {"vector": total},
            "prev_action": action,
            "reward": total[..., 0] / 2,
            "is_first": no,
            "is_last": no,
            "is_terminal": total[..., 0] > 0.3,
            "obs_valid": ~no,
            "index": torch.arange(no.numel()).view(shape),
            "reset": no,
        }
        return Batch(**given | fields)

    return make


class Adder:
    """Knows the rules; `wrong` is added to and taken from its observations in turn."""

    def __init__(self, wrong: float = 0.0):
        self.wrong = wrong

    def __call__(self, batch: Batch, emit):
        total = batch.obs["vector"][emit[:, 0], emit[:, 1]]
        start = State({"h": total})
        unread = torch.empty(0)
        return {}, Latents(unread, unread, unread, start, emit, unread, start)

    def imagine_step(self, carry: State, action: torch.Tensor) -> State:
        return State({"h": carry["h"] + action})

    def feature(self, carry: State) -> torch.Tensor:
        return carry["h"]

    def decode(self, carry: State):
        noise = torch.tensor([1.0, -1.0]).repeat(carry.batch_size // 2)[:, None] * self.wrong
        return {"vector": carry["h"] + noise}

    def predict(self, feature: torch.Tensor) -> Prediction:
        return Prediction(feature[:, 0] / 2, (feature[:, 0] <= 0.3).float())


def errors_of(model, batch: Batch, samples=1):
    errors = Errors(HORIZON)
    imagined(model, Truth(batch, CONTEXT), samples, errors)
    return errors


def test_a_perfect_predictor_has_no_error(make_windows):
    mean = errors_of(Adder(), make_windows()).mean()
    for name in QUANTITIES:
        assert mean[name] == pytest.approx([0.0] * (HORIZON + 1), abs=1e-10)


def test_depth_d_is_compared_with_row_t_plus_d(make_windows):
    """A model that knows all but what happens on one row errs from that row on, by what it was."""
    batch = make_windows()
    for depth in range(1, HORIZON + 1):
        changed = batch.prev_action.clone()
        changed[:, CONTEXT - 1 + depth] += 2.0
        truth = Truth(batch, CONTEXT)
        truth.batch = make_windows(**vars(batch) | {"prev_action": changed})
        errors = Errors(HORIZON)
        imagined(Adder(), truth, 1, errors)
        found = errors.mean()["observation"]
        assert found == pytest.approx([4.0 if d >= depth else 0.0 for d in range(HORIZON + 1)])


def test_futures_are_averaged_before_they_are_compared(make_windows):
    errors = errors_of(Adder(wrong=0.5), make_windows(), samples=2).mean()
    assert errors["observation"] == pytest.approx([0.0] * (HORIZON + 1), abs=1e-10)
    one = errors_of(Adder(wrong=0.5), make_windows(), samples=1).mean()
    assert one["observation"] == pytest.approx([0.25] * (HORIZON + 1))


def test_nothing_is_compared_beyond_the_episode(make_windows):
    first = torch.zeros(WINDOWS, CONTEXT + HORIZON, dtype=torch.bool)
    first[0, CONTEXT] = True  # ends before depth 1
    first[1, CONTEXT + 2] = True  # before depth 3
    first[2, 1] = True  # while observing: no matter
    batch = make_windows(is_first=first)
    batch.obs["vector"][0, CONTEXT:] = 1e6  # another episode: would be seen at once
    errors = errors_of(Adder(), batch)
    assert errors.count["reward"].tolist() == [6, 5, 5, 4, 4]
    assert errors.mean()["observation"] == pytest.approx([0.0] * (HORIZON + 1), abs=1e-10)


def test_depths_without_rows_have_no_error(make_windows):
    first = torch.zeros(WINDOWS, CONTEXT + HORIZON, dtype=torch.bool)
    first[:, CONTEXT + 1] = True
    mean = errors_of(Adder(), make_windows(is_first=first)).mean()
    assert mean["reward"][1] is not None
    assert mean["reward"][2:] == [None] * (HORIZON - 1)


def test_rows_whose_observation_is_not_the_true_one_are_left_out(make_windows):
    valid = torch.ones(WINDOWS, CONTEXT + HORIZON, dtype=torch.bool)
    valid[:2, CONTEXT] = False
    errors = errors_of(Adder(), make_windows(obs_valid=valid))
    assert errors.count["observation"].tolist() == [6, 4, 6, 6, 6]
    assert errors.count["reward"].tolist() == [6] * 5


def test_baselines(make_windows):
    batch = make_windows()
    truth, copies, means = Truth(batch, CONTEXT), Errors(HORIZON), Errors(HORIZON)
    copied(truth, copies)
    total = batch.obs["vector"][..., 0]
    expected = [
        (total[:, CONTEXT - 1 + d] - total[:, CONTEXT - 1]).square().mean().item()
        for d in range(HORIZON + 1)
    ]
    assert copies.mean()["observation"] == pytest.approx(expected, abs=1e-6)
    zero = {"obs": {"vector": torch.zeros(1).numpy()}, "reward": 0.0, "continue": 1.0}
    constant(truth, zero, means)
    terminal = batch.is_terminal[:, CONTEXT - 1 :].float().mean(0).tolist()
    assert means.mean()["continue"] == pytest.approx(terminal)
    squares = total[:, CONTEXT - 1 :].square().mean(0).tolist()
    assert means.mean()["observation"] == pytest.approx(squares, abs=1e-6)


def test_images_are_compared_in_the_unit_interval(make_windows):
    image = torch.full((WINDOWS, CONTEXT + HORIZON, 2, 2, 3), 255, dtype=torch.uint8)
    truth = Truth(make_windows(obs={"image": image}), CONTEXT)
    assert truth.obs(1)["image"].unique().tolist() == [1.0]
