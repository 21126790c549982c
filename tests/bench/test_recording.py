"""One file of random play, from which every model learns the same windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldmodels.bench.prediction import Exam, held_out
from worldmodels.bench.recording import HELD_OUT, LANES, env_spec, load, record, save
from worldmodels.config import ReplayConfig
from worldmodels.envs.registry import config_for
from worldmodels.errors import UserError
from worldmodels.presets import choose_config

CATCH = config_for("catch")


@pytest.fixture(scope="module")
def recording():
    return record(CATCH, rows=320, seed=3)


def test_a_row_holds_the_action_that_led_to_it(recording):
    arrays = recording.arrays
    assert recording.rows * LANES == 320
    assert (arrays["prev_action"][arrays["is_first"]] == -1).all()
    assert (arrays["prev_action"][~arrays["is_first"]] >= 0).all()
    planes = arrays["obs.planes"][..., -1, :, 0]  # the paddle's row
    paddle = planes.argmax(-1)
    for t in range(1, 9):  # the first episode; the ball reaches the paddle's row in its last
        moved = np.clip(paddle[t - 1] + arrays["prev_action"][t] - 1, 0, 4)
        assert (paddle[t] == moved).all()


def test_the_seed_decides_the_rows(recording):
    again, other = record(CATCH, 320, seed=3), record(CATCH, 320, seed=4)
    for name, array in recording.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert not np.array_equal(recording.arrays["prev_action"], other.arrays["prev_action"])


def test_a_file_holds_all_of_it(recording, tmp_path):
    path = tmp_path / "new" / "replay.npz"
    save(recording, path)
    found = load(path, CATCH)
    assert (found.about, found.spec) == (recording.about, env_spec(CATCH))
    assert found.arrays.keys() == recording.arrays.keys()
    for name, array in recording.arrays.items():
        assert np.array_equal(array, found.arrays[name])


def test_a_file_of_another_environment_is_refused(recording, tmp_path):
    save(recording, tmp_path / "replay.npz")
    with pytest.raises(UserError, match=r"recorded in .*'catch'.*, not in .*'memory:catch'"):
        load(tmp_path / "replay.npz", config_for("memory:catch"))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04 cut short"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "replay.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"replay\.npz cannot be read as a recorded replay"):
        load(path, CATCH)


def test_the_same_seed_samples_the_same_windows(recording):
    options = ReplayConfig(capacity=640, batch_length=8, carry="zero", online=False)

    def windows(seed: int) -> torch.Tensor:
        replay = recording.replay(range(6), options, seed)
        return torch.stack([replay.sample(4, 8).index for _ in range(5)])

    assert torch.equal(windows(0), windows(0))
    assert not torch.equal(windows(0), windows(1))


def test_held_out_windows_come_from_the_last_lanes(recording):
    """Mark the lanes by their reward."""
    lanes = np.broadcast_to(np.arange(LANES, dtype=np.float32), recording.arrays["reward"].shape)
    marked = replace(recording, arrays={**recording.arrays, "reward": lanes})
    exam = Exam(updates=1, context=4, horizon=5, windows=70, samples=1, seeds=(0,))
    config = choose_config("catch", ["debug"]).config
    batches = held_out(config, marked, exam, torch.device("cpu"))
    assert [tuple(batch.reward.shape) for batch in batches] == [(64, 9), (6, 9)]
    assert {float(x) for batch in batches for x in batch.reward.unique()} <= {6.0, 7.0}
    learnt = marked.replay(range(LANES - HELD_OUT), replace(config.replay, carry="zero"), 0)
    assert learnt.sample(64, 8).reward.max() < LANES - HELD_OUT


def test_too_short_a_recording_is_refused(recording):
    exam = Exam(updates=1, context=20, horizon=5, windows=8, samples=1, seeds=(0,))
    config = choose_config("catch", ["debug"]).config
    with pytest.raises(UserError, match=r"40 rows in each of 8 lanes, .* windows of 25; raise --r"):
        held_out(config, recording, exam, torch.device("cpu"))


def test_means_are_those_of_the_lanes_that_are_learnt_from(recording):
    means = recording.means()
    reward = recording.arrays["reward"][:, :-HELD_OUT]
    assert means["reward"] == pytest.approx(float(reward.mean()))
    assert means["obs"]["planes"].shape == (10, 5, 1)
    assert means["continue"] == pytest.approx(0.9)  # one row in ten is terminal
