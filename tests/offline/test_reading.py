"""Data sets become rows by design law 1, exactly, from every format."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.offline import sets
from worldmodels.config import ReplayConfig
from worldmodels.envs.spaces import action_encoder, read_action_space
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError
from worldmodels.offline.dataset import open_dataset, spec_of
from worldmodels.offline.fill import fill
from worldmodels.offline.writing import write_minari
from worldmodels.replay import Replay
from worldmodels.replay.folder import ReplayFolder
from worldmodels.replay.recorded import Recorded

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=4)
QUICK = settings(max_examples=12, deadline=None)


def read(path: Path) -> list[Recorded]:
    return list(open_dataset(str(path)).read())


@QUICK
@given(
    st.sampled_from(sorted(sets.OBSERVATIONS)),
    st.sampled_from(sorted(sets.ACTIONS)),
    LENGTHS,
    st.integers(0, 10**6),
)
def test_minari(observation, action, lengths, seed):
    raw = sets.make_raw(sets.OBSERVATIONS[observation], sets.ACTIONS[action], lengths, seed)
    with tempfile.TemporaryDirectory() as folder:
        sets.write_minari(raw, Path(folder, "set"))
        data = open_dataset(f"{folder}/set")
        assert data.rows == sum(lengths) + len(lengths)
        sets.same_rows(list(data.read()), sets.expected(raw))


@QUICK
@given(
    st.sampled_from(sorted(sets.PLAIN)),
    st.sampled_from(sorted(sets.ACTIONS)),
    LENGTHS,
    st.integers(0, 10**6),
    st.booleans(),
)
def test_npz(observation, action, lengths, seed, compressed):
    raw = sets.make_raw(sets.PLAIN[observation], sets.ACTIONS[action], lengths, seed)
    with tempfile.TemporaryDirectory() as folder:
        sets.write_npz(raw, Path(folder, "set.npz"), compressed)
        for path in (Path(folder), Path(folder, "set.npz")):
            data = open_dataset(str(path))
            assert data.rows == sum(lengths) + len(lengths)
            sets.same_rows(list(data.read()), sets.expected(raw))


@QUICK
@given(
    st.sampled_from(sorted(sets.PLAIN)),
    st.sampled_from(["discrete", "box"]),
    LENGTHS,
    st.integers(0, 10**6),
)
def test_write_load_fill_and_export_are_one(observation, action, lengths, seed):
    """Rows -> data set -> rows -> replay on disk -> rows -> data set -> rows, none of them changed;
    with lost lives, frames that were not seen and tasks.
    """
    random = np.random.default_rng(seed)
    raw = sets.make_raw(sets.PLAIN[observation], sets.ACTIONS[action], lengths, seed)
    with tempfile.TemporaryDirectory() as folder:
        sets.write_npz(raw, Path(folder, "source.npz"))
        source = open_dataset(f"{folder}/source.npz")
        spec, rows = spec_of(source, "test"), [marked(one, random) for one in source.read()]
        write_minari(Path(folder, "first"), spec, rows, {})
        first = open_dataset(f"{folder}/first")
        assert (first.obs, first.action) == (spec.obs, spec.action)
        same(list(first.read()), rows)
        options = ReplayConfig(
            capacity=10_000, batch_length=2, batch_size=1, segment=7, carry="zero"
        )
        replay = Replay(options, spec, None, 2, Path(folder, "run", "replay"), seed=0)
        assert fill(replay, first) == (sum(len(one) for one in rows), len(rows))
        found = ReplayFolder(Path(folder, "run"))
        same(list(found.episodes()), rows)
        write_minari(Path(folder, "second"), found.layout.spec, found.episodes(), {})
        same(read(Path(folder, "second")), rows)


def marked(rows: Recorded, random: np.random.Generator) -> Recorded:
    """Some lives lost in the middle, a last frame unseen, a task."""
    lost = rows.is_terminal | ((random.random(len(rows)) < 0.3) & ~rows.is_first & ~rows.is_last)
    rows.is_terminal[:] = lost
    rows.obs_valid[-1] = random.random() < 0.5
    rows.task[:] = random.integers(4)
    return rows


def same(mine: list[Recorded], theirs: list[Recorded]) -> None:
    """Bit for bit."""
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal", "task"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()), name
        assert one.obs_valid.tolist() == other.obs_valid.tolist()
        assert one.obs.keys() == other.obs.keys()
        for key, values in one.obs.items():
            assert values.dtype == other.obs[key].dtype
            np.testing.assert_array_equal(values, other.obs[key])


def test_one_episode_needs_no_lengths(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [4], 0)
    np.savez(tmp_path / "one.npz", **raw.episodes[0], num_actions=3)
    sets.same_rows(read(tmp_path / "one.npz"), sets.expected(raw))


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    raws = [sets.make_raw(sets.VECTOR, sets.ACTIONS["box"], [2, 1], seed) for seed in range(3)]
    for name, raw in zip("cab", raws, strict=True):
        sets.write_npz(raw, tmp_path / f"{name}.npz")
    rows = [row for place in (1, 2, 0) for row in sets.expected(raws[place])]
    sets.same_rows(read(tmp_path), rows)


def test_arrays_stored_by_columns(tmp_path):
    raw = sets.make_raw(sets.WIDE, sets.ACTIONS["box"], [3, 2], 1)
    for episode in raw.episodes:
        assert episode["observations"].ndim == 3
    sets.write_npz(raw, tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as arrays:
        columns = {name: np.asfortranarray(values) for name, values in arrays.items()}
    (tmp_path / "rows.npz").unlink()
    np.savez(tmp_path / "columns.npz", **columns)  # pyright: ignore[reportArgumentType]
    sets.same_rows(read(tmp_path / "columns.npz"), sets.expected(raw))


def test_an_episode_without_an_end_counts_as_truncated(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3], 0)
    raw.episodes[0]["terminations"][:] = raw.episodes[0]["truncations"][:] = False
    sets.write_npz(raw, tmp_path / "a.npz")
    (rows,) = read(tmp_path)
    assert rows.is_last.tolist() == [False, False, False, True]
    assert not rows.is_terminal.any()


def test_images_are_resized_as_the_environment_does(tmp_path):
    from worldmodels.envs.images import image_resizer

    raw = sets.make_raw(sets.IMAGE, sets.ACTIONS["discrete"], [2], 0)
    sets.write_npz(raw, tmp_path / "a.npz")
    data = open_dataset(str(tmp_path), image_size=8)
    assert data.obs == {"image": ObsSpec((8, 8, 3), "image")}
    (rows,) = data.read()
    resized = [image_resizer(8)(frame) for frame in raw.episodes[0]["observations"]]
    np.testing.assert_array_equal(rows.obs["image"], resized)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_actions_go_through_the_space_and_back(bounds, seed):
    low = np.array([min(pair) for pair in bounds])
    high = np.array([max(pair) for pair in bounds])
    space = spaces.Box(low, high, dtype=np.float64)
    unit = np.random.default_rng(seed).uniform(-1, 1, (5, len(bounds))).astype(np.float32)
    spec, decode = read_action_space(space, "test")
    assert spec == ActionSpec("continuous", len(bounds))
    again = action_encoder(space)(np.stack([decode(action) for action in unit]))
    fixed = high - low < 1e-6
    np.testing.assert_allclose(again[:, ~fixed], unit[:, ~fixed], atol=1e-6)
    assert (np.abs(again) <= 1).all()


def test_actions_of_our_own_keep_every_bit():
    encode = action_encoder(spaces.Box(-1, 1, (1,), np.float32))
    values = np.array([[1e-30], [-1e-12], [0.1], [-1.0], [1.0], [0.0]], np.float32)
    assert encode(values).tobytes() == values.tobytes()
    assert action_encoder(spaces.Discrete(3, start=5))(np.array([5, 7])).tolist() == [0, 2]


def test_ids_are_found_where_minari_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3], 0)
    sets.write_minari(raw, tmp_path / "toy" / "walk" / "random-v0")
    data = open_dataset("toy/walk/random-v0")
    assert (data.kind, data.rows, data.path) == ("minari", 4, tmp_path / "toy/walk/random-v0")
    with pytest.raises(UserError, match="did you mean 'toy/walk/random-v0'"):
        open_dataset("toy/walk/rando-v0")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="is no data set"):
        open_dataset(str(tmp_path / "nothing"))


def test_a_spec_of_any_shape_goes_through_minari(tmp_path):
    """Images of four channels, which no Gymnasium space of ours holds, under a key of their own."""
    spec = EnvSpec("own", {"stack": ObsSpec((3, 3, 4), "image")}, ActionSpec("discrete", 2))
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (4, 3, 3, 4), np.uint8)
    flags = np.zeros((4, 4), np.bool_)
    flags[0, 0] = flags[1, 3] = True
    rows = Recorded(
        {"stack": frames},
        np.array([-1, 0, 1, 1]),
        np.array([0, 1, 2, 3], np.float32),
        flags[0],
        flags[1],
        flags[2],
        ~flags[3],
        np.zeros(4, np.int32),
    )
    write_minari(tmp_path / "set", spec, [rows], {})
    data = open_dataset(str(tmp_path / "set"))
    assert data.obs == spec.obs
    same(list(data.read()), [rows])
