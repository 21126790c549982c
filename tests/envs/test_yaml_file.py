"""YAML as PyYAML reads it, but for keys that stand twice."""

from pathlib import Path

import pytest
import yaml

from worldmodels.envs.yaml_file import parse_yaml, read_yaml
from worldmodels.errors import UserError

PRESETS = sorted((Path(__file__).parents[2] / "worldmodels" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_presets_are_read_as_before(path: Path):
    assert read_yaml(path, "preset") == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "{a: {b: 1}, b: {a: 1}}",
        "[{a: 1}, {a: 2}]",
        "base: &base {a: 1, b: 2}\nother: {<<: *base, a: 3}",
        "{1: a, '1': b, true: c}",
        "? [a, b]\n: 1\n? [a, c]\n: 2",
        "",
    ],
)
def test_keys_that_only_look_equal_are_fine(text: str):
    try:
        expected = yaml.safe_load(text)
    except yaml.YAMLError as error:  # lists as keys
        with pytest.raises(type(error)):
            parse_yaml(text)
    else:
        assert parse_yaml(text) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\n'a': 3", r"at line 3 \('a' was given at line 1 already\)"),
        ("a:\n- {b: 1,\n   b: 1}", r"at line 3 \('b' was given at line 2 already\)"),
        ("a: &x\n  1: b\n  1: c\nb: *x", r"at line 3 \('1' was given at line 2 already\)"),
    ],
)
def test_a_key_that_stands_twice_is_named(tmp_path: Path, text: str, place: str):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"file\.yaml is not valid YAML {place}; correct it"):
        read_yaml(tmp_path / "file.yaml", "config file")
