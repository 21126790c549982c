"""Configurations as data and as YAML: the round trip, the checks, and their sentences."""

from dataclasses import fields, is_dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodels.backbones.configs import GRUConfig, RSSMConfig
from worldmodels.config import Config, WorldModelConfig
from worldmodels.config_file import (
    check_resumable,
    differences,
    dump_config,
    from_dict,
    load_config_file,
    option_names,
    to_dict,
)
from worldmodels.envs.configs import AtariConfig, CatchConfig, GymConfig
from worldmodels.envs.continual_config import ContinualConfig
from worldmodels.errors import UserError
from worldmodels.presets import load_config

_CHOSEN = {
    "env": st.sampled_from(
        [
            CatchConfig(),
            AtariConfig(sticky=0.25, resize="box"),
            GymConfig("gym:a.b/C-v1"),
            ContinualConfig(
                tasks=("catch", "{name: catch, label: '1, 2: x', inverted: true}"),
                steps_per_task=5,
            ),
        ]
    ),
    "backbone": st.sampled_from([RSSMConfig(deter=8), GRUConfig(deter=3)]),
    "carry": st.sampled_from(["auto", "stored", "zero", "burnin:8"]),
    "retention": st.sampled_from(["fifo", "wmar", "my.module:Mine"]),
    "sampling": st.sampled_from(["uniform", "dfs", "uniform:0.5+recency:1"]),
    "starts": st.just(64 * 64),
    "context": st.sampled_from([0, 8]),
    "batch_size": st.integers(1, 64),
    "batch_length": st.integers(2, 64),
    "capacity": st.integers(2 * 64 * 64, 10**12),
    "kind": st.just("mine.py:Mine"),  # plain has no options, ravl none that are idle
    "subset": st.integers(1, 2),
    "memory": st.sampled_from([16, 4096]),
    "objective": st.just("repo"),
}
_BY_TYPE = {
    bool: st.booleans(),
    int: st.integers(2, 10**12),
    float: st.floats(0, 1, exclude_min=True, exclude_max=True),
    str: st.text(),
}


def values(config) -> st.SearchStrategy:
    """Dataclasses like `config`, with any legal values."""
    types = get_type_hints(type(config))
    parts = {}
    for field in fields(config):
        kind, current = types[field.name], getattr(config, field.name)
        if field.name in _CHOSEN:
            parts[field.name] = _CHOSEN[field.name]
        elif is_dataclass(current):
            parts[field.name] = values(current)
        elif get_origin(kind) is Literal:
            parts[field.name] = st.sampled_from(get_args(kind))
        else:
            parts[field.name] = _BY_TYPE[kind]
    return st.fixed_dictionaries(parts).map(lambda given: replace(config, **given))


@settings(max_examples=50, deadline=None)
@given(config=values(Config()))
def test_dump_and_load_is_the_identity(config, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config_file(path) == config
    assert from_dict(to_dict(config), Config()) == config


def test_every_option_is_dumped():
    assert len(list(option_names(Config()))) == len(set(option_names(Config())))
    found = yaml.safe_load(dump_config(Config()))
    for path in option_names(Config()):
        block = found
        for key in path.split("."):
            block = block[key]


def test_numbers_may_be_written_in_any_way():
    config = from_dict(yaml.safe_load("{steps: 1e5, seed: '7', train_ratio: 8}"), Config())
    assert (config.steps, config.seed, config.train_ratio) == (100_000, 7, 8.0)
    assert type(config.steps) is int
    assert type(config.train_ratio) is float
    assert from_dict({"seed": str(2**60 + 1)}, Config()).seed == 2**60 + 1


def test_another_name_resets_its_block():
    base = Config(backbone=RSSMConfig(deter=64, hidden=8), env=AtariConfig(sticky=0.25))
    same = from_dict({"backbone": {"name": "rssm", "hidden": 16}}, base)
    assert same.backbone == RSSMConfig(deter=64, hidden=16)
    other = from_dict({"backbone": {"name": "gru"}, "env": {"name": "atari:boxing"}}, base)
    assert other.backbone == GRUConfig()
    assert other.env == AtariConfig("atari:Boxing")
    assert from_dict({"env": {"name": "atari:pong"}}, base).env == base.env


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stepz": 1}, "unknown option 'stepz'; did you mean 'steps'"),
        ({"world_model": {"unimx": 1}}, "'world_model.unimx'; did you mean 'world_model.unimix'"),
        ({"learning_rate": 1}, "did you mean 'optimizer.learning_rate'"),
        ({"env": {"sticky": 1}}, "unknown option 'env.sticky'"),
        ({1: 2}, "unknown option '1'"),
        ({"steps": "many"}, "steps is a whole number, not 'many'"),
        ({"steps": 1.5}, "steps is a whole number, not 1.5"),
        ({"steps": True}, "steps is a whole number, not True"),
        ({"steps": None}, "steps is a whole number, not None"),
        ({"steps": float("inf")}, "steps is a whole number, not inf"),
        ({"train_ratio": [1]}, "train_ratio is a number, not [1]"),
        ({"deterministic": "yes"}, "deterministic is true or false, not 'yes'"),
        ({"device": 0}, "device is text, not 0"),
        ({"world_model": {"posterior": "h"}}, "world_model.posterior is one of hx, x, not 'h'"),
        ({"world_model": 3}, "world_model has options of its own, such as world_model.name"),
        ({"env": "catch"}, "env has options of its own, such as env.name"),
        ({"env": {"name": 3}}, "env.name is text, not 3"),
        ({"env": {"name": "ctch"}}, "did you mean 'catch'?"),
        ({"backbone": {"name": "grru"}}, "did you mean 'gru'"),
        ({"world_model": {"name": "latnt"}}, "no world model 'latnt'; did you mean 'latent'"),
        ({"optimizer": {"name": "adamw"}}, "no optimiser 'adamw'; did you mean 'adam'"),
        (
            {"optimizer": {"name": "adam", "agc": 1}},
            "optimizer.agc is an option of optimizer.name laprop, not of adam",
        ),
        ({"actor_critic": {"name": "x"}}, "no actor-critic 'x'; there are dreamer"),
        ({"world_model": {"stoch": 0}}, "world_model.stoch is at least 1, not 0"),
        ({"actor_critic": {"slow_rate": 2}}, "actor_critic.slow_rate lies between 0 and 1"),
        ({"steps": 0}, "steps is at least 1, not 0"),
        ({"num_envs": -1}, "num_envs is at least 1, not -1"),
        ({"replay": {"batch_size": 0}}, "replay.batch_size is at least 1, not 0"),
        ({"optimizer": {"beta1": 1.5}}, "optimizer.beta1 lies above 0 and below 1, not at 1.5"),
        ({"replay": {"carry": "burnin:x"}}, "burnin:K"),
    ],
)
def test_a_mistake_names_the_option(options, text):
    with pytest.raises(UserError) as error:
        from_dict(options, Config())
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"steps: [1, 2", "is not valid YAML at line"),
        (b"steps: 1\n\tseed: 2", "is not valid YAML at line 2"),
        (b"steps: 1\nseed: 2\nsteps: 3", "at line 3 ('steps' was given at line 1 already)"),
        (b"replay:\n  online: false\n  'online': true", "line 3 ('online' was given at line 2"),
        (b"replay: {coin: row, coin: batch}", "line 1 ('coin' was given at line 1 already)"),
        (b"\xff\xfe\x00", "is not text"),
        (b"", "holds nothing instead of options"),
        (b"- 1\n- 2\n", "holds list instead of options"),
        (b"just text", "holds str instead of options"),
        (b"stepz: 1", "unknown option 'stepz'"),
        (b"!!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_a_foreign_file_is_named(tmp_path, content, text):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config_file(path)
    assert str(path) in str(error.value)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.yaml: No such file"):
        load_config_file(tmp_path / "no.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_config_file(tmp_path)


def test_blocks_without_a_name_are_of_the_kinds_that_were_there_first():
    """Config files and run folders from before world models and actor-critics had names."""
    data = to_dict(Config(world_model=WorldModelConfig(units=8)))
    assert (data["world_model"].pop("name"), data["actor_critic"].pop("name")) == (
        "latent",
        "dreamer",
    )
    assert from_dict(data, Config()) == Config(world_model=WorldModelConfig(units=8))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"world_model": {"stoch": 3}}, "--world-model.stoch"),
        ({"actor_critic": {"layers": 1}}, "--actor-critic.layers"),
        ({"replay": {"capacity": 10**5}}, "--replay.capacity"),
        ({"seed": 1}, "--seed"),
        ({"values": {"kind": "ravl"}}, "--values.kind"),
    ],
)
def test_a_resumed_run_keeps_what_shapes_its_checkpoints(options, flag):
    with pytest.raises(UserError, match=f"so {flag} stays"):
        check_resumable(Config(), from_dict(options, Config()))
    check_resumable(Config(), from_dict({"world_model": {"free_nats": 2}}, Config()))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"critics": 3}, "--values.critics"),
        ({"memory": 32}, "--values.memory"),
        ({"novelty": "rnd"}, "--values.novelty"),
        ({"prior_scale": 0.0}, "--values.prior-scale"),
        ({"reach_penalty": 0.0}, "--values.reach-penalty"),
    ],
)
def test_a_resumed_run_keeps_the_parts_of_its_critics(options, flag):
    """Priors and the measure of novelty are there or not; their weights may change."""
    saved = from_dict({"values": {"kind": "ravl"}}, Config())
    with pytest.raises(UserError, match=f"so {flag} stays"):
        check_resumable(saved, from_dict({"values": options}, saved))
    weights = {"prior_scale": 0.4, "reach_penalty": 0.1, "reducer": "mean"}
    check_resumable(saved, from_dict({"values": weights}, saved))


def test_differences():
    before = Config()
    after = from_dict({"steps": 5, "world_model": {"units": 8}}, before)
    assert differences(before, after) == {"steps": (100_000, 5), "world_model.units": (64, 8)}
    assert differences(before, before) == {}


def test_derived_numbers():
    config = Config(train_ratio=64.0, horizon=333)
    assert config.updates_per_step == 0.0625
    assert config.discount == pytest.approx(0.996997, abs=1e-6)


def test_starts_are_as_many_from_every_row():
    for count in (1, 63, 65, 1000):
        with pytest.raises(UserError, match=f"multiple of replay.batch_length, 64.*not {count}"):
            load_config("catch", ["size1m"], actor_critic={"starts": count})
    for count in (0, 64, 960, 1024, 1025):
        config = load_config("catch", ["size1m"], actor_critic={"starts": count})
        assert config.actor_critic.starts == count
