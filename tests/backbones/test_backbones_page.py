"""docs/backbones.md says what is true: its example obeys the laws and trains, in all three ways."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from worldmodels import registry
from worldmodels.agent import Agent
from worldmodels.backbones.configs import GRUConfig
from worldmodels.config_file import load_config_file
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.presets import load_config
from worldmodels.trainer import train
from worldmodels.world_model import WorldModel

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
EXAMPLE, CHECK = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SPEC = EnvSpec("test", {"vector": ObsSpec((3,), "vector")}, ActionSpec("discrete", 2))


def module(name: str, text: str, folder: Path, monkeypatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def check_trains(config) -> None:
    """The world model is built with the backbone and a loss reaches its weights."""
    world_model, _ = build_models(config, SPEC)
    carry = world_model.imagine_step(world_model.initial(2), torch.eye(2))
    assert "backbone.memory" in carry  # h is stored once
    world_model.predict(carry["h"].new_zeros(2, world_model.feature_size))
    carry["h"].sum().backward()
    assert isinstance(world_model, WorldModel)
    backbone = world_model.dynamics.backbone
    assert all(p.grad is not None for p in backbone.parameters())


def test_the_example_obeys_every_law(tmp_path, monkeypatch, capsys):
    module("my_lstm", EXAMPLE, tmp_path, monkeypatch)
    exec(CHECK, {"__name__": "check"})
    assert "a reset cuts the past" in capsys.readouterr().out


def test_by_file_and_again_from_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "my_lstm.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    config = load_config("catch", ["debug"], backbone="my_lstm.py:LSTM", steps=48)
    assert config.backbone.name == f"{tmp_path / 'my_lstm.py'}:LSTM"
    check_trains(config)
    run = train(config, Path("run").resolve(), quiet=True)
    monkeypatch.chdir("/")
    config = load_config_file(run / "config.yaml")
    assert config.backbone.forget == 1.0
    agent = Agent.load(run)
    assert isinstance(agent.world_model, WorldModel)
    trained: Any = agent.world_model.dynamics.backbone
    fresh = type(trained)(config.backbone, trained.input_size)
    assert not torch.equal(trained.from_h.weight, fresh.from_h.weight)
    (tmp_path / "my_lstm.py").unlink()
    registry._module_of.cache_clear()
    with pytest.raises(UserError, match=r"my_lstm.py:LSTM.*No such file"):
        load_config_file(run / "config.yaml")


def test_by_module(tmp_path, monkeypatch):
    module("my_lstm", EXAMPLE, tmp_path, monkeypatch)
    config = load_config("catch", ["demo"], backbone="my_lstm:LSTM")
    assert (config.backbone.name, config.backbone.width) == ("my_lstm:LSTM", 128)
    check_trains(config)


def test_as_a_plug_in(tmp_path, monkeypatch):
    module("lstm_plugin", EXAMPLE, tmp_path, monkeypatch)
    point = EntryPoint("lstm", "lstm_plugin:LSTM", "worldmodels.backbones")

    def entry_points(*, group, name=None):
        assert group == "worldmodels.backbones"
        return [point] if name in (None, "lstm") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert registry.backbone_names() == [*registry.BUILTIN, "lstm"]
    assert registry.backbone_config("lstm").name == "lstm"
    check_trains(load_config("catch", ["demo"], backbone="lstm"))
    with pytest.raises(UserError, match="did you mean 'lstm'"):
        registry.backbone_class("lstmm")


def test_files_of_one_name_are_two_modules(tmp_path):
    for folder, width in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        text = EXAMPLE.replace("width: int = 128", f"width: int = {width}")
        (tmp_path / folder / "my_lstm.py").write_text(text)
    one, two = (
        registry.backbone_config(f"{tmp_path / folder / 'my_lstm.py'}:LSTM")
        for folder in ("one", "two")
    )
    assert (one.width, two.width) == (3, 4)
    modules = {sys.modules[type(config).__module__].__file__ for config in (one, two)}
    assert modules == {str(tmp_path / folder / "my_lstm.py") for folder in ("one", "two")}


@pytest.mark.parametrize("config", ["None", "dict", "NoName"])
def test_a_class_without_options_is_told_what_to_do(config, tmp_path, monkeypatch):
    text = "from dataclasses import dataclass\n@dataclass\nclass NoName: x: int = 1\n"
    (tmp_path / "odd.py").write_text(f"{text}class Odd: Config = {config}\n")
    with pytest.raises(UserError, match="give the class a `Config`"):
        registry.backbone_config(f"{tmp_path}/odd.py:Odd")


def test_the_table_lists_what_is_built_in():
    table = PAGE[: PAGE.index("## The contract")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(registry.BUILTIN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsm", "no backbone 'rsm'; did you mean 'rssm'?"),
        ("nowhere:Leaky", "cannot load 'nowhere:Leaky'"),
        ("math:Leaky", "cannot load 'math:Leaky'"),
        ("/nowhere/leaky.py:Leaky", "cannot load '/nowhere/leaky.py:Leaky'"),
    ],
)
def test_a_wrong_name_is_one_clear_error(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        registry.backbone_config(name)


def test_registry_classes_know_their_configs():
    for name in registry.backbone_names():
        assert registry.backbone_config(name).name == name
        assert type(registry.backbone_config(name)) is registry.backbone_class(name).Config
    assert registry.backbone_config("gru") == GRUConfig()
