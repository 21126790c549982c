"""docs/backbones.md says what is true: its example obeys the laws and trains, in all three ways."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from worldmodels import registry
from worldmodels.backbones.configs import GRUConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.presets import load_config

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
    assert "backbone.memory" in carry
    world_model.predict(carry["h"].new_zeros(2, world_model.feature_size))
    carry["h"].sum().backward()
    backbone = world_model.dynamics.backbone
    assert all(p.grad is not None for p in backbone.parameters())


def test_the_example_obeys_every_law(capsys):
    exec(EXAMPLE + CHECK, {"__name__": "example"})
    assert "a reset cuts the past" in capsys.readouterr().out


def test_by_path(tmp_path, monkeypatch):
    module("leaky", EXAMPLE, tmp_path, monkeypatch)
    config = load_config("catch", ["demo"], backbone="leaky:Leaky")
    assert (config.backbone.name, config.backbone.width) == ("leaky:Leaky", 128)
    check_trains(config)


def test_as_a_plug_in(tmp_path, monkeypatch):
    text = EXAMPLE.replace('"leaky:Leaky"', '"leaky"')
    module("leaky_plugin", text, tmp_path, monkeypatch)
    point = EntryPoint("leaky", "leaky_plugin:Leaky", "worldmodels.backbones")

    def entry_points(*, group, name=None):
        assert group == "worldmodels.backbones"
        return [point] if name in (None, "leaky") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert registry.backbone_names() == ["rssm", "gru", "leaky"]
    check_trains(load_config("catch", ["demo"], backbone="leaky"))
    with pytest.raises(UserError, match="did you mean 'leaky'"):
        registry.backbone_class("leakky")


def test_the_name_must_be_the_configs(tmp_path, monkeypatch):
    module("leaky_other", EXAMPLE, tmp_path, monkeypatch)
    with pytest.raises(UserError, match="the default 'leaky_other:Leaky'"):
        registry.backbone_config("leaky_other:Leaky")


def test_the_table_lists_what_is_built_in():
    table = PAGE[: PAGE.index("## The contract")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(registry._BUILTIN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsm", "no backbone 'rsm'; did you mean 'rssm'?"),
        ("nowhere:Leaky", "cannot load 'nowhere:Leaky'"),
        ("math:Leaky", "cannot load 'math:Leaky'"),
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
