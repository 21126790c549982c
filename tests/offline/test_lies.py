"""Data sets that lie: each is refused in one sentence that names file, episode and row."""

import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.offline import sets
from worldmodels.errors import UserError
from worldmodels.offline.dataset import open_dataset

Corruption = Callable[[sets.Arrays, int], int]
"""Spoils an episode at action t; returns the row that is to be named."""


def leaf(episode: sets.Arrays) -> tuple[dict[str, Any], str]:
    """Where the (first) observation is kept."""
    observations = episode["observations"]
    if isinstance(observations, dict):
        return observations, min(observations)
    return episode, "observations"


def no_last_observation(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = place[key][:-1]
    return len(episode["actions"])


def a_row_too_many(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = np.concatenate([place[key], place[key][-1:]])
    return len(episode["actions"]) + 1


def no_number(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = np.array(place[key])
    place[key][t].flat[-1] = np.nan
    return t


def too_large_a_number(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = np.array(place[key])
    place[key][t].flat[0] = np.inf
    return t


def other_type(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = place[key].astype(np.float16)
    return 0


def other_shape(episode: sets.Arrays, t: int) -> int:
    place, key = leaf(episode)
    place[key] = place[key][..., :-1]
    return 0


def reward_nan(episode: sets.Arrays, t: int) -> int:
    episode["rewards"] = np.array(episode["rewards"])
    episode["rewards"][t] = np.nan
    return t + 1


def reward_infinite(episode: sets.Arrays, t: int) -> int:
    episode["rewards"] = np.array(episode["rewards"])
    episode["rewards"][t] = -np.inf
    return t + 1


def reward_missing(episode: sets.Arrays, t: int) -> int:
    episode["rewards"] = episode["rewards"][:-1]
    return len(episode["actions"])


def rewards_text(episode: sets.Arrays, t: int) -> int:
    episode["rewards"] = np.zeros(len(episode["actions"]), "S3")
    return 1


def action_below(episode: sets.Arrays, t: int) -> int:
    return _act(episode, t, -1.0)


def action_above(episode: sets.Arrays, t: int) -> int:
    return _act(episode, t, 1.0)


def _act(episode: sets.Arrays, t: int, sign: float) -> int:
    """Beyond every bound of `sets.ACTIONS`."""
    actions = episode["actions"] = np.array(episode["actions"])
    actions[t].flat[-1] = 0  # a float action is a view
    if actions.ndim == 1:
        actions[t] = 3 if sign > 0 else -1
    else:
        actions[t, -1] = 1.001 if sign > 0 else -1.001
    return t + 1


def actions_of_another_kind(episode: sets.Arrays, t: int) -> int:
    kind = np.int64 if episode["actions"].dtype.kind == "f" else np.float32
    episode["actions"] = episode["actions"].astype(kind)
    return 1


def actions_nan(episode: sets.Arrays, t: int) -> int:
    if episode["actions"].dtype.kind != "f":
        return actions_of_another_kind(episode, t)
    episode["actions"] = np.array(episode["actions"])
    episode["actions"][t, 0] = np.nan
    return t + 1


def ends_early(name: str) -> Corruption:
    def spoil(episode: sets.Arrays, t: int) -> int:
        episode[name] = np.array(episode[name])
        episode[name][t] = True
        return t + 1

    return spoil


def flags_short(name: str) -> Corruption:
    def spoil(episode: sets.Arrays, t: int) -> int:
        episode[name] = episode[name][:-1]
        return len(episode["actions"])

    return spoil


def flags_long(name: str) -> Corruption:
    def spoil(episode: sets.Arrays, t: int) -> int:
        episode[name] = np.append(episode[name], True)
        return len(episode["actions"]) + 1

    return spoil


def flags_numbers(name: str) -> Corruption:
    def spoil(episode: sets.Arrays, t: int) -> int:
        episode[name] = episode[name].astype(np.int64)
        return 1

    return spoil


EARLY = {f"{name} early": ends_early(name) for name in ("terminations", "truncations")}
"""Not at the last action, where an end is right."""
CORRUPTIONS: dict[str, Corruption] = {
    "no last observation": no_last_observation,
    "a row too many": a_row_too_many,
    "observation nan": no_number,
    "observation infinite": too_large_a_number,
    "type": other_type,
    "shape": other_shape,
    "reward nan": reward_nan,
    "reward infinite": reward_infinite,
    "reward missing": reward_missing,
    "rewards text": rewards_text,
    "action below": action_below,
    "action above": action_above,
    "actions of another kind": actions_of_another_kind,
    "action nan": actions_nan,
    **EARLY,
    **{f"{name} short": flags_short(name) for name in ("terminations", "truncations")},
    **{f"{name} long": flags_long(name) for name in ("terminations", "truncations")},
    **{f"{name} numbers": flags_numbers(name) for name in ("terminations", "truncations")},
}


def refused(path: Path, file: Path, episode: int, row: int | None) -> str:
    """The one sentence about a data set, which names file, episode and row."""
    with pytest.raises(UserError) as caught:
        list(open_dataset(str(path)).read())
    text = str(caught.value)
    found = re.match(r"(.*), episode (\d+), row (\d+): ", text)
    assert found, text
    assert (Path(found[1]).resolve(), int(found[2])) == (file.resolve(), episode), text
    assert row is None or int(found[3]) == row, text
    assert "\n" not in text
    return text


@settings(max_examples=3, deadline=None)
@given(
    st.sampled_from(["vector", "several"]),
    st.lists(st.integers(2, 5), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.data(),
)
@pytest.mark.parametrize("action", ["discrete", "box"])
@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("form", ["minari", "npz"])
def test_a_single_corruption_is_found_where_it_is(
    form, name, action, observation, lengths, seed, data
):
    raw = sets.make_raw(sets.PLAIN[observation], sets.ACTIONS[action], lengths, seed)
    place = data.draw(st.integers(0, len(lengths) - 1), label="episode")
    last = lengths[place] - (2 if name in EARLY else 1)
    row = CORRUPTIONS[name](raw.episodes[place], data.draw(st.integers(0, last), label="action"))
    with tempfile.TemporaryDirectory() as folder:
        if form == "minari":
            file = sets.write_minari(raw, Path(folder, "set"))
            refused(Path(folder, "set"), file, place, row)
        else:
            files = write_files(raw, Path(folder))
            found, episode = files[place]
            # What a file's columns are is known, and refused, before any row is read.
            mixed = name in ("type", "shape", "rewards text", "actions of another kind")
            mixed |= name == "action nan" and action == "discrete"
            refused(Path(folder), found, episode, None if mixed else row)


def write_files(raw: sets.Raw, folder: Path) -> list[tuple[Path, int]]:
    """A file an episode, so that every column may have any length; where each episode is."""
    places = []
    # Of the first file all others differ: it must be sound.
    sound = sets.make_raw(raw.observation, raw.action, [2], 0)
    for number, episode in enumerate([*sound.episodes, *raw.episodes]):
        parts = {name: episode[name] for name in sets.COLUMNS}
        observations = episode["observations"]
        if isinstance(observations, dict):
            parts |= {f"observations.{key}": values for key, values in observations.items()}
        else:
            parts["observations"] = observations
        file = folder / f"{number:03d}.npz"
        np.savez(file, **parts, **sets.options(raw.action))
        places.append((file, 0))
    return places[1:]


def test_a_missing_last_observation_is_called_that(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 4], 0)
    no_last_observation(raw.episodes[1], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    text = refused(tmp_path / "set", file, 1, 4)
    assert "the last observation is missing: observations has 4 rows for 4 actions" in text


@pytest.mark.parametrize("key", ["observations", *sets.COLUMNS])
def test_missing_keys(tmp_path, key):
    h5py = pytest.importorskip("h5py")
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 2, 4], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    with h5py.File(file, "a") as data:
        del data[f"episode_1/{key}"]
    assert key in refused(tmp_path / "set", file, 1, 0)
    plain = {**raw.episodes[0], "num_actions": 3}
    del plain[key]
    np.savez(tmp_path / "a.npz", **plain)
    assert f"the key {key} is missing" in refused(tmp_path / "a.npz", tmp_path / "a.npz", 0, 0)


def test_an_empty_episode(tmp_path):
    h5py = pytest.importorskip("h5py")
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 2, 4], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    with h5py.File(file, "a") as data:
        for key, rows in {"observations": 1, **dict.fromkeys(sets.COLUMNS, 0)}.items():
            data[f"episode_2/{key}"].resize(rows, axis=0)
    assert "the episode is empty" in refused(tmp_path / "set", file, 2, 0)
    lengths = np.array([3, 0, 6])
    whole = sets.write_npz(raw, tmp_path / "a.npz")
    with np.load(whole) as arrays:
        np.savez(whole, **{**arrays, "lengths": lengths})
    assert "the episode is empty" in refused(whole, whole, 1, 0)


def test_no_episodes(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    sets.edit_metadata(tmp_path / "set", total_episodes=0, total_steps=0)
    assert "it has no episodes" in refused(tmp_path / "set", file, 0, 0)
    empty = {name: values[:0] for name, values in raw.episodes[0].items()}
    np.savez(tmp_path / "a.npz", **empty, num_actions=3, lengths=np.zeros(0, np.int64))
    assert "has no episode" in refused(tmp_path / "a.npz", tmp_path / "a.npz", 0, 0)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("form", ["minari", "npz"])
def test_truncated_files(tmp_path, form, share):
    raw = sets.make_raw(sets.IMAGE, sets.ACTIONS["box"], [30, 30, 30], 0)
    path = tmp_path / ("set" if form == "minari" else "a.npz")
    file = sets.write_minari(raw, path) if form == "minari" else sets.write_npz(raw, path)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert "cannot be read" in refused(path, file, 0, None)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("column", ["observations", *sets.COLUMNS])
def test_a_column_that_is_not_what_was_written(tmp_path, column, compressed):
    """The archive's own checksum tells; here it is the checksum that is changed."""
    raw = sets.make_raw(sets.IMAGE, sets.ACTIONS["box"], [400, 300], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz", compressed)
    data = bytearray(file.read_bytes())
    entry = data.rindex(f"{column}.npy".encode()) - 46  # in the archive's directory
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + 16] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.npz, episode [01], row 0: .*Bad CRC-32"):
        list(open_dataset(str(file)).read())


def test_a_bit_of_the_archives_directory(tmp_path):
    """Whatever its reader makes of it: the same rows, or one sentence."""
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 2], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz", True)
    data = file.read_bytes()

    def read() -> str:
        try:
            return str([rows.obs["vector"].tolist() for rows in open_dataset(str(file)).read()])
        except UserError as error:
            return str(error)

    answers = [read()]
    for place in range(data.index(b"PK\x01\x02"), len(data)):
        for bit in (0, 1, 6):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            answers.append(read())
    refusals = [answer for answer in answers if answer != answers[0]]
    assert all("a.npz, episode" in answer for answer in refusals)
    assert len(refusals) > 400


def test_a_column_with_more_bytes_than_rows(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 2], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz")
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["rewards.npy"] += bytes(8)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert "goes on behind its last row" in refused(file, file, 1, 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"total_episodes": 9}, "the episode cannot be read"),
        ({"action_space": "{}"}, "Minari cannot open it"),
        ({"data_format": "nothing"}, "Minari cannot open it"),
        ({"ref_min_score": "low"}, "ref_min_score is 'low', which is no number"),
        ({"total_steps": None, "total_episodes": [1]}, "total_episodes is [1], which is no number"),
        ({"ref_min_score": 5, "ref_max_score": 1}, "ref_min_score, 5, is not below ref_max_score"),
        ({"ref_min_score": 2, "ref_max_score": 2}, "ref_min_score, 2, is not below ref_max_score"),
    ],
)
def test_metadata_that_lies(tmp_path, change, text):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    sets.edit_metadata(tmp_path / "set", **change)
    number = 2 if change == {"total_episodes": 9} else 0
    assert text in refused(tmp_path / "set", file, number, 0)


@pytest.mark.parametrize(
    ("change", "episode", "row", "told", "there"),
    [
        ({"total_episodes": 1}, 0, 3, "6 steps in 1 episodes", 3),
        ({"total_steps": 9}, 1, 3, "9 steps in 2 episodes", 6),
        ({"total_steps": 2}, 1, 3, "2 steps in 2 episodes", 6),
        ({"total_steps": 0}, 0, 3, "0 steps in 2 episodes", 3),
    ],
)
def test_metadata_that_miscounts(tmp_path, change, episode, row, told, there):
    """Episodes would be left out, or the beginning forgotten by a FIFO that seems large enough."""
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    sets.edit_metadata(tmp_path / "set", **change)
    text = refused(tmp_path / "set", file, episode, row)
    assert f"announces {told}, but up to here there are {there}" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sets/wolk", "did you mean 'walk'?"),
        ("sets/other.npz", "; name a folder or a file that is there"),
        ("nowhere/at-all", "; name a folder or a file that is there"),
        ("D4RL/door/human-v2", "; `minari download {}/D4RL/door/human-v2` fetches it"),
    ],
)
def test_names_of_nothing(tmp_path, name, text):
    (tmp_path / "sets" / "walk").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no data set") as caught:
        open_dataset(f"{tmp_path}/{name}")
    assert text.format(tmp_path) in str(caught.value)


def test_metadata_that_is_no_json(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    for text in ("{", json.dumps([1])):
        (tmp_path / "set" / "data" / "metadata.json").write_text(text)
        assert "metadata.json" in refused(tmp_path / "set", file, 0, 0)


def test_more_episodes_than_the_metadata_announce(tmp_path):
    """Steps and episodes agree, and the last episode would be left out."""
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3, 3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    sets.edit_metadata(tmp_path / "set", total_episodes=1, total_steps=3)
    text = refused(tmp_path / "set", file, 1, 0)
    assert "announces 1 episodes, but there is another" in text
    sets.edit_metadata(tmp_path / "set", total_episodes=-1, total_steps=3)
    assert "it has no episodes" in refused(tmp_path / "set", file, 0, 0)


def test_files_of_different_kinds(tmp_path):
    one = sets.make_raw(sets.VECTOR, sets.ACTIONS["box"], [2], 0)
    sets.write_npz(one, tmp_path / "a.npz")
    for number, other in enumerate(
        [
            sets.make_raw(sets.WIDE, sets.ACTIONS["box"], [2], 0),
            sets.make_raw(sets.VECTOR, sets.ACTIONS["scaled"], [2], 0),
            sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [2], 0),
        ]
    ):
        file = tmp_path / f"b{number}.npz"
        sets.write_npz(other, file)
        text = refused(tmp_path, file, 0, 0)
        assert "a.npz holds" in text
        file.unlink()
    one.extra = {"ref_min_score": 1.0, "ref_max_score": 2.0}
    sets.write_npz(one, tmp_path / "b.npz")
    refused(tmp_path, tmp_path / "b.npz", 0, 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lengths": np.array([2, 2])}, "lengths add up to 4, but there are 5 actions"),
        ({"lengths": np.array([2.0, 3.0])}, "lengths is float64"),
        ({"num_actions": 0}, "num_actions is 0"),
        ({"num_actions": None}, "num_actions is missing"),
        ({"num_actions": np.array([3, 3])}, "num_actions is"),
        ({"rewards": np.array([None] * 5)}, "rewards is object"),
        ({"length": np.array([2, 3])}, "did you mean 'lengths'"),
        ({"ref_min_score": np.nan}, "ref_min_score is"),
        ({"ref_min_score": 5.0, "ref_max_score": 1.0}, "ref_min_score, 5, is not below"),
        ({"observations.a": np.zeros(7)}, "the key observations excludes observations.a"),
    ],
)
def test_what_an_npz_says_of_itself(tmp_path, change, text):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [2, 3], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz")
    with np.load(file) as arrays:
        changed = {**arrays, **change}
    np.savez(file, **{name: values for name, values in changed.items() if values is not None})
    with pytest.raises(UserError, match=r"a\.npz, episode \d, row \d+: ") as caught:
        list(open_dataset(str(file)).read())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"action_low": np.zeros(3)}, "cannot be read"),
        ({"action_low": np.full(2, np.nan)}, "are no bounds"),
        ({"action_low": np.ones(2), "action_high": np.zeros(2)}, "are no bounds"),
    ],
)
def test_bounds_that_are_none(tmp_path, change, text):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["box"], [2, 3], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz")
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, **change})
    assert text in refused(file, file, 0, 0)


@pytest.mark.parametrize("name", ["action_low", "action_high"])
def test_float_actions_without_bounds(tmp_path, name):
    """Torques of a Pendulum lie within -2 and 2: nobody may take them for -1 and 1."""
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["box"], [2, 3], 0)
    file = sets.write_npz(raw, tmp_path / "a.npz")
    with np.load(file) as arrays:
        np.savez(file, **{key: arrays[key] for key in arrays if key != name})
    assert f"{name} is missing" in refused(file, file, 0, 0)


def test_a_choice_that_is_none(tmp_path):
    raw = sets.make_raw(sets.CHOICE, sets.ACTIONS["discrete"], [3, 3], 0)
    raw.episodes[1]["observations"][2] = 6
    file = sets.write_minari(raw, tmp_path / "set")
    assert "is not within 2 to 5" in refused(tmp_path / "set", file, 1, 2)


def test_observations_under_other_names(tmp_path):
    raw = sets.make_raw(sets.PLAIN["several"], sets.ACTIONS["discrete"], [3, 3], 0)
    observations = raw.episodes[1]["observations"]
    observations["z"] = observations.pop("a")
    file = sets.write_minari(raw, tmp_path / "set")
    assert "cannot be read ('z')" in refused(tmp_path / "set", file, 1, 0)


def test_rounding_is_no_lie(tmp_path):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["box"], [3], 0)
    raw.episodes[0]["actions"][1, 0] = np.nextafter(np.float32(1), np.float32(2))
    sets.write_npz(raw, tmp_path / "a.npz")
    (rows,) = open_dataset(str(tmp_path)).read()
    assert rows.prev_action[2, 0] == 1


@pytest.mark.parametrize(
    "layout", [{}, {"vector": [[4], "vector"]}, {"vector": [[3], "image"]}, {"vector": 3}, [1]]
)
def test_a_layout_that_lies(tmp_path, layout):
    raw = sets.make_raw(sets.VECTOR, sets.ACTIONS["discrete"], [3], 0)
    file = sets.write_minari(raw, tmp_path / "set")
    sets.edit_metadata(tmp_path / "set", worldmodels={"observations": layout})
    assert "metadata.json says" in refused(tmp_path / "set", file, 0, 0)
