"""Presets: names, stacking, defaults by environment and device, and the size ladder."""

import pytest
import torch

import worldmodels
from worldmodels import presets
from worldmodels.config import Config
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec
from worldmodels.errors import UserError
from worldmodels.iql_options import IQLConfig
from worldmodels.learner import build_models
from worldmodels.presets import (
    FOLDER,
    choose_config,
    default_presets,
    load_config,
    load_preset,
    preset_names,
)

LADDER = {
    "size1m": (64, 688_004),
    "size12m": (256, 10_498_772),
    "size25m": (384, 23_496_244),
    "size50m": (512, 41_659_284),
    "size100m": (768, 93_482_068),
    "size200m": (1024, 165_967_124),
}
"""hidden, and parameters for 64x64x3 images and 18 actions without the slow critic (DESIGN 6)."""


def test_the_names():
    streams = [f"continual-{stream}" for stream in ("atari", "catch", "coinrun", "minatar")]
    early = ["debug", "demo", "drama", "dreamerv3", "iql", "mbpo", "memory", "mopo", "procgen"]
    late = ["ravl", "ravl-mbpo", "reach", "sac", "small", "wmar"]
    methods = ["atari100k", *streams, *early, *late]
    assert preset_names() == [*methods, *LADDER]
    with pytest.raises(UserError, match="no preset 'size12'; did you mean 'size12m'"):
        load_preset("size12")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_where_it_comes_from_and_loads(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    for backbone in ("rssm", "gru"):
        assert load_config("catch", [name], backbone=backbone).backbone.name == backbone


@pytest.mark.parametrize("name", LADDER)
def test_the_ladder_follows_one_rule_and_has_the_published_sizes(name):
    hidden, parameters = LADDER[name]
    config = load_config("catch", ["dreamerv3", name])
    model = config.world_model
    assert (model.hidden, model.units, config.actor_critic.units) == (hidden, hidden, hidden)
    assert (model.depth, model.classes, model.stoch) == (hidden // 16, hidden // 16, 32)
    assert (config.backbone.deter, config.backbone.hidden) == (8 * hidden, hidden)
    spec = EnvSpec("test", {"image": ObsSpec((64, 64, 3), "image")}, ActionSpec("discrete", 18))
    with torch.device("meta"):
        modules = build_models(config, spec)
    counts = [p.numel() for module in modules for p in module.parameters() if p.requires_grad]
    assert sum(counts) == parameters


def test_dreamerv3_at_size1m_is_the_default_method():
    """Config's own defaults are the 2025 form at its smallest size; only the capacity differs."""
    config = load_config("catch", ["dreamerv3", "size1m"])
    assert config == load_config("catch", [], replay={"capacity": 5_000_000})


def test_stacking_is_left_to_right():
    assert load_config("catch", ["size12m", "debug"]).world_model.units == 16
    assert load_config("catch", ["debug", "size12m"]).world_model.units == 256


def test_a_preset_sizes_the_backbone_that_is_chosen():
    """`backbones:` holds options by name, whichever preset or flag made the choice."""
    gru = load_config("catch", ["dreamerv3", "size12m"], backbone="gru")
    assert (gru.backbone.name, gru.backbone.deter) == ("gru", 2048)
    assert gru.world_model.hidden == 256


def test_a_backbone_that_a_preset_does_not_know_keeps_its_defaults(monkeypatch):
    monkeypatch.setattr(
        presets, "load_preset", lambda name: {"backbones": {"rssm": {"deter": 8}}, "seed": 3}
    )
    chosen = choose_config("catch", ["wide"], backbone="gru")
    assert chosen.config == Config(env=chosen.config.env, backbone=chosen.config.backbone, seed=3)
    assert chosen.config.backbone.deter == 512
    assert "preset wide has no options for backbone gru, which keeps its defaults" in chosen.notes


@pytest.mark.parametrize(
    ("env", "on_gpu", "names"),
    [
        ("catch", False, ["demo"]),
        ("catch", True, ["demo"]),
        ("memory:tmaze-4", False, ["memory"]),
        ("reach:plane", True, ["reach"]),
        ("minatar:breakout", True, ["small"]),
        ("gym:CartPole-v1", False, ["small"]),
        ("my.module:Env", False, ["small"]),
        ("atari:Pong", True, ["dreamerv3", "size12m", "atari100k"]),
        ("atari:Pong", False, ["dreamerv3", "size1m"]),
        ("atari100k:Pong", False, ["dreamerv3", "size1m", "atari100k"]),
        ("continual:catch", True, ["demo", "wmar", "continual-catch"]),
        ("continual:minatar", False, ["small", "wmar", "continual-minatar"]),
        ("continual:Atari", True, ["dreamerv3", "size12m", "wmar", "continual-atari"]),
        ("continual:coinrun", False, ["dreamerv3", "size1m", "wmar", "continual-coinrun"]),
        ("procgen:coinrun", True, ["dreamerv3", "size12m", "procgen"]),
        ("procgen:coinrun", False, ["dreamerv3", "size1m"]),
    ],
)
def test_defaults_suit_environment_and_device(env, on_gpu, names):
    assert default_presets(env, on_gpu) == names


@pytest.mark.parametrize(
    ("device", "has_gpu", "train_ratio"),
    [("cpu", True, 64), ("cuda", False, 256), ("auto", True, 256), ("auto", False, 64)],
)
def test_the_train_ratio_of_atari_depends_on_the_device(monkeypatch, device, has_gpu, train_ratio):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert load_config("atari:pong", device=device).train_ratio == train_ratio


def test_a_config_file_goes_over_the_presets_of_its_environment(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("env: {name: minatar:breakout, sticky: 0.2}\nbackbone: {name: gru, deter: 9}\n")
    config = load_config(config_file=file)
    assert (config.env.sticky, config.backbone.deter) == (0.2, 9)
    assert config.world_model.units == 128  # of `small`


def test_a_config_files_blocks_count_for_what_they_name(tmp_path):
    """Another environment or backbone than the file's own does not inherit its options."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "env: {name: minatar:breakout, sticky: 0.2}\nbackbone: {name: rssm, deter: 8}\n"
    )
    config = load_config("minatar:freeway", ["debug"], file, backbone="gru")
    assert (config.env.name, config.env.sticky) == ("minatar:freeway", 0.1)
    assert (config.backbone.name, config.backbone.deter) == ("gru", 32)


def test_it_is_public():
    assert worldmodels.load_config is load_config


def test_a_backbones_options_in_code():
    config = load_config("catch", ["demo"], backbone={"name": "hybrid", "stack": ["gru", "mamba"]})
    assert (config.backbone.stack, config.backbone.width) == (("gru", "mamba"), 128)
    assert load_config("catch", ["demo"], backbone={"deter": 64}).backbone.deter == 64


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 48_000),
        ({"env": {"cycles": 2}}, 96_000),
        ({"env": {"task": "flipped"}}, 16_000),
        ({"env": {"cycles": 2}, "steps": 24_000}, 24_000),
        ({"presets": ["demo"]}, 48_000),
    ],
)
def test_a_stream_says_how_many_steps_there_are_unless_something_else_does(given, steps):
    """The presets' steps are those of one task."""
    options = {key: value for key, value in given.items() if key == "presets"}
    nested = {key: value for key, value in given.items() if key != "presets"}
    chosen = choose_config("continual:catch", **options)
    assert chosen.with_options(nested).steps == steps


def test_a_config_file_sets_the_steps_of_a_stream(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 500\n")
    assert load_config("continual:catch", config_file=file).steps == 500
    file.write_text("seed: 1\n")
    assert load_config("continual:catch", config_file=file).steps == 48_000


@pytest.mark.parametrize(("stream", "episodes"), [("atari", 16), ("coinrun", 256)])
def test_the_budgets_of_arrow(stream, episodes):
    """90 epochs of 16,384 agent steps per task; every task evaluated every 10 epochs."""
    config = load_config(f"continual:{stream}", device="cpu")
    assert (config.env.steps_per_task, len(config.env.parts)) == (90 * 16_384, 6)
    assert (config.steps, config.num_envs) == (6 * 90 * 16_384, 4)
    assert (config.evaluation.every, config.evaluation.episodes) == (10 * 16_384, episodes)
    assert config.train_ratio == 1000 * 16 * 32 / 16_384


def test_a_presets_sizes_are_those_of_the_model_that_it_means():
    """`debug` sizes DreamerV3's actor-critic and says nothing about another."""
    config = load_config("catch", ["debug", "iql"])
    assert config.actor_critic == IQLConfig()
    assert config.world_model.units == 16
    assert load_config("catch", ["debug"]).actor_critic.units == 16


def test_a_users_file_for_another_model_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("actor_critic: {imagination_length: 7}")
    with pytest.raises(UserError, match=r"option of actor_critic\.name dreamer or sac, not of iql"):
        load_config("catch", ["debug", "iql"], config_file=file)
