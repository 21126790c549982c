"""docs/values.md: its example passes the public check, its options are the code's."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from worldmodels.parts import VALUES
from worldmodels.values.configs import ValuesConfig
from worldmodels.values.testing import check_values

PAGE = (Path(__file__).parents[2] / "docs" / "values.md").read_text()
CODE = re.findall("```python\n(.*?)```", PAGE, re.S)
EXAMPLE = next(code for code in CODE if "class Expectiles" in code)


def test_the_example_passes_the_check(tmp_path):
    assert len(EXAMPLE.splitlines()) <= 44
    (tmp_path / "my_file.py").write_text(EXAMPLE)
    check_values(f"{tmp_path / 'my_file.py'}:Expectiles")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("prediction[0].detach()", "prediction[0]", "value carries a gradient"),
        ("[:, :, :-1]\n", "\n", "must match the size|shape"),
        ("self.head(feature)", "self.head(feature - feature.mean(0))", "other sequences"),
        ("[low[:, :-1], last]", "[low[:, :-1] - 1, last]", "the last value only"),
        (".sum(0)\n", ".sum(0) * 0\n", "no loss reaches head"),
        ("low[:, -1:] -", "torch.rand(()) + low[:, -1:].double() -", "float32"),
        ("target -", "-target -", "off by"),
    ],
)
def test_the_check_names_the_rule_that_is_broken(tmp_path, right, wrong, rule):
    assert right in EXAMPLE
    (tmp_path / "my_file.py").write_text(EXAMPLE.replace(right, wrong))
    with pytest.raises((AssertionError, RuntimeError), match=rule):
        check_values(f"{tmp_path / 'my_file.py'}:Expectiles")


def test_the_check_fails_a_learner_whose_checkpoint_lacks_a_part(tmp_path):
    code = EXAMPLE.replace("scale=0.0)", "scale=0.0)\n        self.offset = torch.randn(())", 1)
    code = code.replace("self.head(feature)", "(self.head(feature) + self.offset * 0.1)")
    (tmp_path / "my_file.py").write_text(code)
    with pytest.raises(AssertionError, match="restored"):
        check_values(f"{tmp_path / 'my_file.py'}:Expectiles")


@pytest.mark.parametrize("kind", VALUES)
def test_built_in_learners_pass_the_check(kind):
    check_values(kind)


@pytest.mark.parametrize(
    "options",
    [
        {"novelty": "rnd", "diversity": "gradient", "reducer": "lcb"},
        {"novelty": "exact", "diversity": "spread", "reducer": "mean", "critics": 2},
    ],
)
def test_so_do_their_options(options):
    check_values("ravl", ValuesConfig(kind="ravl", **options))


def test_the_page_has_every_option_and_default():
    for field in fields(ValuesConfig):
        assert f"--values.{field.name.replace('_', '-')}" in PAGE, field.name
    for option in ("critics", "reducer", "prior_scale", "diversity", "reach_penalty", "novelty"):
        default = getattr(ValuesConfig(), option)
        row = f"`--values.{option.replace('_', '-')}` | "
        assert re.search(re.escape(row) + f"`?{default}`? ", PAGE), option
