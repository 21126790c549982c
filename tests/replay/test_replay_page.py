"""docs/replay.md: its example passes the public check, and its numbers are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

from worldmodels.backbones.base import LeafSpec
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.parts import RETENTIONS, SAMPLERS
from worldmodels.presets import load_preset
from worldmodels.replay.packing import Packing
from worldmodels.replay.rows import RowLayout
from worldmodels.replay.storage import row_bytes
from worldmodels.replay.testing import check_retention, check_sampler

PAGE = (Path(__file__).parents[2] / "docs" / "replay.md").read_text()
CODE = re.findall("```python\n(.*?)```", PAGE, re.S)


def example() -> str:
    return next(code for code in CODE if "class Surprising" in code)


def test_the_first_example_runs_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = next(code for code in CODE if "recover" in code)
    for rows in (0, 1):
        exec(code, {})
        assert f"Recovered(rows={rows}, lost=0, notes=())" in capsys.readouterr().out


def test_the_example_passes_the_check(tmp_path):
    code = example()
    assert len(code.splitlines()) <= 40
    (tmp_path / "mine.py").write_text(code)
    check_retention(f"{tmp_path / 'mine.py'}:Surprising", rounds=60)


def test_the_check_fails_what_forgets_its_memory(tmp_path):
    code = example().replace('return {**super().save(), "mean"', 'return super().save() or {"mean"')
    code = code.replace('saved["mean"] if saved else (0.0, 0)', "(0.0, 0)")
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(AssertionError, match="after a restore"):
        check_retention(f"{tmp_path / 'mine.py'}:Surprising", rounds=120)


@pytest.mark.parametrize("name", RETENTIONS)
def test_built_in_retentions_pass_the_check(name):
    check_retention(name, rounds=60)
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("text", [*SAMPLERS, "dfs:0.5+recency:0.2+uniform:1"])
def test_built_in_samplers_pass_the_check(text):
    check_sampler(text, rounds=60)


def test_every_sampler_is_on_the_page():
    assert all(f"`{name}`" in PAGE for name in SAMPLERS)


def test_the_table_of_bytes():
    spec = EnvSpec("atari", {"image": ObsSpec((64, 64, 3), "image")}, ActionSpec("discrete", 18))
    plain = row_bytes(RowLayout(spec).columns, None)
    side = Packing({"h": LeafSpec((512,)), "z": LeafSpec((32, 4))}).column
    stored = plain + side.nbytes
    capacity = load_preset("wmar")["replay"]["capacity"]
    assert capacity == 2**19
    for size in (plain, stored):
        assert f"| {size:,} | {size * capacity / 2**30:.1f} GiB |" in PAGE
    assert np.isclose(plain * capacity / 2**30, 6.0, atol=0.1)
