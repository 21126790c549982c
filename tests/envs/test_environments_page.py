"""docs/environments.md says what is true: its example runs, its tables equal the code."""

import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from worldmodels.envs import registry
from worldmodels.envs.configs import Atari100kConfig
from worldmodels.envs.names import PROCGEN
from worldmodels.envs.procgen_config import ProcgenConfig
from worldmodels.envs.reach_config import ReachConfig
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.rollout import RandomPlay
from worldmodels.envs.vector import make_vec

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def corridor_module(tmp_path, monkeypatch):
    """The page's first block as a module that can be imported."""
    (tmp_path / "corridor_module.py").write_text(BLOCKS[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    yield "corridor_module:Corridor"
    sys.modules.pop("corridor_module", None)


def test_the_example_keeps_every_law(capsys):
    exec("\n".join(BLOCKS), {"__name__": "example"})
    assert "state after is_last" in capsys.readouterr().out


def test_the_example_plugs_in_by_class_and_by_register(corridor_module):
    registry.register("corridor", corridor_module)
    for name in (corridor_module, "corridor", "corridor:long"):
        env = make(config_for(name), seed=0)
        assert env.spec.name == name
    row = make_vec(config_for("corridor"), 3, seed=0).step(np.zeros(3))
    assert row.obs["vector"].shape == (3, 6)


def test_the_memory_table_is_the_spec():
    rows = re.findall(r"^\| `(memory:\S+)` \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", PAGE, re.M)
    assert len(rows) == 3
    for name, steps, *scores in rows:
        env = make(config_for(name), seed=0)
        spec = env.spec
        told = (spec.random_score, spec.memoryless_score, spec.reference_score)
        assert told == tuple(float(score) for score in scores)
        ended = [row.is_last.item() for row in RandomPlay(env, seed=0).rows(int(steps) + 1)]
        assert ended == [False] * int(steps) + [True]


def test_the_reach_section_is_the_spec():
    section = PAGE[PAGE.index("## Edge of reach") : PAGE.index("## Your own environment")]
    scores = re.findall(r"^\| `(reach:\w+)` \| .* \| (\S+) \| (\S+) \|$", section, re.M)
    assert [name for name, *_ in scores] == ["reach:ramp", "reach:bump", "reach:rampx"]
    for name, *told in scores:
        spec = make(config_for(name), seed=0).spec
        assert [spec.random_score, spec.reference_score] == pytest.approx(
            [float(score) for score in told], abs=0.005
        )
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M))
    assert table == {f.name: str(f.default) for f in fields(ReachConfig) if f.name != "name"}


def test_the_protocol_table_is_the_config():
    section = PAGE[PAGE.index("## The Atari protocol") : PAGE.index("## Procgen")]
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    assert table == {f.name: str(f.default) for f in fields(Atari100kConfig) if f.name != "name"}


def test_the_procgen_section_is_the_config():
    section = PAGE[PAGE.index("## Procgen") : PAGE.index("## Gymnasium spaces")]
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    assert table == {f.name: str(f.default) for f in fields(ProcgenConfig) if f.name != "name"}
    assert ", ".join(PROCGEN) in section
    limits = {ProcgenConfig(f"procgen:{game}").time_limit for game in PROCGEN}
    limits.add(ProcgenConfig("procgen:jumper", "memory").time_limit)
    assert limits == {int(number) for number in re.findall(r"\b[1-9]0{3}\b|\b500\b", section)}


def test_the_six_looks_of_coinrun_are_options():
    written = re.search(r"`(\{name: procgen:coinrun.*?\})`", PAGE)
    assert written is not None
    options = yaml.safe_load(written[1])
    assert ProcgenConfig(**options) == ProcgenConfig(use_backgrounds=False, restrict_themes=True)


def test_the_streams_of_the_table_are_the_built_in_ones():
    rows = re.findall(r"^\| `continual:(\w+)` \| (\d): (.*) \| (\d+) \|$", PAGE, re.M)
    assert [name for name, *_ in rows] == ["catch", "minatar", "coinrun", "atari"]
    for name, count, tasks, steps in rows:
        config = config_for(f"continual:{name}")
        assert re.findall(r"`([\w+]+)`", tasks) == list(config.task_names)
        assert (len(config.parts), config.steps_per_task) == (int(count), int(steps))


def test_the_stream_of_the_example_plays(tmp_path):
    file = tmp_path / "my_tasks.yaml"
    file.write_text(re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0])
    config = config_for(f"continual:{file}")
    assert config.task_names == ("catch", "flipped", "memory:catch")
    assert (config.steps_per_task, config.cycles, config.order) == (6000, 2, "shuffled")
    assert make_vec(config, 2, seed=0).step(np.zeros(2)).is_first.all()
