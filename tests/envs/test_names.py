"""Names, spellings, options and the three ways to plug an environment in."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from worldmodels.envs import registry
from worldmodels.envs.configs import (
    Atari100kConfig,
    AtariConfig,
    CatchConfig,
    GymConfig,
    MemoryCatchConfig,
    MemoryRepeatConfig,
    MemoryTMazeConfig,
    MinAtarConfig,
)
from worldmodels.envs.errors import UserError
from worldmodels.envs.names import ATARI_100K, atari_roms
from worldmodels.envs.procgen_config import ProcgenConfig
from worldmodels.envs.registry import config_for, listing, make


@pytest.mark.parametrize(
    ("name", "config", "canonical"),
    [
        ("catch", CatchConfig, "catch"),
        ("memory:Catch", MemoryCatchConfig, "memory:catch"),
        ("memory:TMaze-007", MemoryTMazeConfig, "memory:tmaze-7"),
        ("memory:repeat-1", MemoryRepeatConfig, "memory:repeat-1"),
        ("atari:pong", AtariConfig, "atari:Pong"),
        ("atari:ALE/MsPacman-v5", AtariConfig, "atari:MsPacman"),
        ("atari:up_n_down", AtariConfig, "atari:UpNDown"),
        ("atari:kung-fu-master", AtariConfig, "atari:KungFuMaster"),
        ("atari:Enduro", AtariConfig, "atari:Enduro"),
        ("atari100k:JAMESBOND", Atari100kConfig, "atari100k:Jamesbond"),
        ("minatar:SpaceInvaders", MinAtarConfig, "minatar:space_invaders"),
        ("procgen:CoinRun", ProcgenConfig, "procgen:coinrun"),
        ("procgen:big_fish-v0", ProcgenConfig, "procgen:bigfish"),
        ("gym:CartPole-v1", GymConfig, "gym:CartPole-v1"),
    ],
)
def test_any_spelling_gives_the_canonical_name(name, config, canonical):
    assert config_for(name) == config(name=canonical)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atari:Pongg", "unknown Atari game 'Pongg'; did you mean 'atari:Pong'?"),
        ("Pong", "unknown environment 'Pong'; did you mean 'atari:Pong' or 'atari100k:Pong'?"),
        ("Catch", "unknown environment 'Catch'; did you mean 'catch'?"),
        ("atary:Pong", "did you mean 'atari:Pong'"),
        ("minatar:brekout", "unknown MinAtar game 'brekout'; did you mean 'minatar:breakout'?"),
        ("minatar:Pong", "did you mean 'atari:Pong'"),
        ("atari:Montezuma", "did you mean 'atari:MontezumaRevenge'"),
        ("procgen:coinrunn", "unknown Procgen game 'coinrunn'; did you mean 'procgen:coinrun'?"),
        ("coinrun", "did you mean 'procgen:coinrun'"),
        ("procgen:Pong", "did you mean 'atari:Pong'"),
        ("atari100k:Enduro", "not one of the 26 games of Atari100k; use 'atari:Enduro'"),
        (
            "memory:tmaze",
            "'memory:tmaze' needs the corridor's length in its name, a whole number from 2 to "
            "999999: for example 'memory:tmaze-20'",
        ),
        ("memory:tmaze-0", "from 2 to 999999: for example 'memory:tmaze-20'"),
        ("memory:tmaze-1", "from 2 to 999999: for example 'memory:tmaze-20'"),
        ("memory:tmaze-x", "'memory:tmaze-x' needs the corridor's length"),
        ("memory:tmaze-2.5", "'memory:tmaze-2.5' needs the corridor's length"),
        ("memory:tmaze--5", "'memory:tmaze--5' needs the corridor's length"),
        ("memory:tmaze-1000000", "from 2 to 999999"),
        ("memory:repeat", "needs the delay in its name, a whole number from 1 to 999999"),
        ("memory:repeat-0", "for example 'memory:repeat-8'"),
        ("memory:catch-3", "name is 'memory:catch-3', but it must be 'memory:catch'"),
        ("memory:tmaz-20", "did you mean 'memory:tmaze-20'"),
        ("tmaze-20", "did you mean 'memory:tmaze-20'?"),
        ("memory", "there are memory:catch, memory:tmaze-20, memory:tmaze-100, memory:repeat-2"),
        ("memory:xyzzy", "memory:repeat-8, and other numbers"),
        ("xyzzy", "`worldmodels envs` lists the names"),
        ("gym:", "must be 'gym:ID'"),
        ("no_such.module:MyEnv", "no module 'no_such.module' can be imported"),
        ("collections:NoSuchEnv", "module 'collections' has no class 'NoSuchEnv'"),
        ("collections:OrderedDict", "needs a nested or assigned `Config`"),
    ],
)
def test_an_unknown_name_lists_near_ones(name, message):
    with pytest.raises(UserError) as info:
        config_for(name)
    assert message in str(info.value)
    assert "\n" not in str(info.value)


def test_the_26_games_exist_and_have_scores():
    from worldmodels.envs.atari_scores import ATARI_SCORES

    assert len(ATARI_100K) == 26
    assert set(ATARI_100K) <= atari_roms().keys()
    assert tuple(ATARI_SCORES) == ATARI_100K
    assert ATARI_SCORES["Pong"] == (-20.7, 14.6)
    assert all(human > random for random, human in ATARI_SCORES.values())


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        (AtariConfig, "sticky", 1.5),
        (AtariConfig, "image_size", 60),
        (AtariConfig, "image_size", 0),
        (AtariConfig, "frame_skip", 0),
        (AtariConfig, "max_pool", 3),
        (AtariConfig, "noop_max", -1),
        (AtariConfig, "max_frames", 0),
        (AtariConfig, "resize", "area"),
        (AtariConfig, "life_loss", "on"),
        (MemoryRepeatConfig, "symbols", 1),
        (MemoryRepeatConfig, "symbols", 6),
        (MinAtarConfig, "sticky", -0.1),
        (MinAtarConfig, "max_steps", 0),
        (GymConfig, "image_size", 20),
        (GymConfig, "max_steps", -5),
    ],
)
def test_a_bad_value_names_the_option(config, option, value):
    with pytest.raises(UserError, match=f"{option} is {value}, but it must be"):
        config(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"), [("sticky", 0.25), ("image_size", 96), ("life_loss", "flag")]
)
def test_the_atari100k_protocol_is_fixed(option, value):
    with pytest.raises(UserError, match=f"fixes {option} at .*use 'atari:Pong'"):
        Atari100kConfig(**{option: value})


@dataclass(frozen=True)
class PluginConfig:
    name: str
    speed: int = 3


class Plugin:
    Config = PluginConfig

    def __init__(self, config, seed):
        self.config, self.seed = config, seed


@pytest.fixture
def plugin_module(monkeypatch):
    """A module of a third party, importable as `their_package`."""
    import types
    from importlib.machinery import ModuleSpec

    module = types.ModuleType("their_package")
    module.__dict__.update(Plugin=Plugin, __spec__=ModuleSpec("their_package", None))
    monkeypatch.setitem(sys.modules, "their_package", module)
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    return "their_package:Plugin"


def _is_plugged_in(name):
    env = make(config_for(name), seed=7)
    assert isinstance(env, Plugin)
    return env.config == PluginConfig(name, 3) and env.seed == 7


def test_plug_in_by_class_name(plugin_module):
    assert _is_plugged_in(plugin_module)


def test_plug_in_by_register(plugin_module):
    registry.register("theirs", plugin_module)
    assert _is_plugged_in("theirs")
    assert _is_plugged_in("theirs:variant")
    assert "theirs" in [entry["suite"] for entry in listing()]
    with pytest.raises(UserError, match="'atari' is taken by"):
        registry.register("atari", plugin_module)


def test_plug_in_by_entry_point(plugin_module, monkeypatch):
    entry = EntryPoint("entered", plugin_module, registry.ENTRY_POINTS)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [entry] if group == "worldmodels.envs" else []
    )
    assert _is_plugged_in("entered:variant")
    with pytest.raises(UserError, match="did you mean 'entered'"):
        config_for("enterd")


def test_a_module_that_fails_to_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_env_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="raised ZeroDivisionError: division by zero"):
        config_for("broken_env_module:MyEnv")


def test_a_missing_library_prints_its_install_line(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'run: pip install "worldmodels-rl\[minatar\]"$'):
        make(MinAtarConfig(), seed=0)


def test_listing_has_every_suite():
    entries = {entry["suite"]: entry for entry in listing()}
    assert entries.keys() >= {"catch", "minatar", "atari", "atari100k", "procgen", "gym"}
    assert entries["memory:tmaze"]["names"] == ["memory:tmaze-20", "memory:tmaze-100"]
    assert len(entries["atari100k"]["names"]) == 26
    assert len(entries["procgen"]["names"]) == 16
    assert entries["minatar"]["install"] == 'pip install "worldmodels-rl[minatar]"'
    assert all(entry["description"] for entry in entries.values())
    for name in [name for entry in entries.values() for name in entry["names"]]:
        assert config_for(name).name == name


def test_names_and_configs_import_no_library():
    """`worldmodels --help` shows the options of environments without loading any."""
    code = (
        "import sys; from worldmodels.envs.registry import config_for, listing; "
        "listing(); config_for('atari100k:pong'); "
        "print({'numpy', 'gymnasium', 'ale_py', 'torch', 'PIL', 'minatar'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
