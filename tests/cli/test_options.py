"""Flags: the list of them, how values are read, what wins, and how mistakes are answered."""

import re

import pytest
import yaml

from worldmodels.cli.choices import read_choices
from worldmodels.cli.options import field_docs, flags
from worldmodels.cli.train import TrainChoices
from worldmodels.config import Config
from worldmodels.config_file import to_dict
from worldmodels.envs.configs import Atari100kConfig
from worldmodels.envs.registry import config_for
from worldmodels.presets import load_config

TRAIN = [
    "--preset",
    "--config",
    "--backbone",
    "--resume",
    "--online",
    "--run",
    "--quiet",
    "--print-config",
    "--dry-run",
    "--backbone.deter",
    "--backbone.hidden",
    "--backbone.blocks",
    "--backbone.layers",
    "--steps",
    "--offline",
    "--seed",
    "--device",
    "--precision",
    "--deterministic",
    "--threads",
    "--num-envs",
    "--train-ratio",
    "--model-updates",
    "--horizon",
    "--kernel",
    "--world-model.posterior",
    "--world-model.stoch",
    "--world-model.classes",
    "--world-model.hidden",
    "--world-model.prior-layers",
    "--world-model.posterior-layers",
    "--world-model.depth",
    "--world-model.units",
    "--world-model.vector-layers",
    "--world-model.head-layers",
    "--world-model.free-nats",
    "--world-model.unimix",
    "--world-model.dyn-weight",
    "--world-model.rep-weight",
    "--world-model.reconstruction-weight",
    "--world-model.reward-weight",
    "--world-model.continue-weight",
    "--world-model.objective",
    "--world-model.kl-target",
    "--world-model.kl-rate",
    "--actor-critic.layers",
    "--actor-critic.units",
    "--actor-critic.imagination-length",
    "--actor-critic.starts",
    "--actor-critic.context",
    "--actor-critic.return-lambda",
    "--actor-critic.entropy",
    "--actor-critic.unimix",
    "--actor-critic.slow-rate",
    "--actor-critic.slow-weight",
    "--actor-critic.policy-weight",
    "--actor-critic.value-weight",
    "--actor-critic.replay-value-weight",
    "--actor-critic.normalizer-decay",
    "--values.kind",
    "--values.critics",
    "--values.reducer",
    "--values.lcb",
    "--values.subset",
    "--values.prior-scale",
    "--values.diversity",
    "--values.diversity-weight",
    "--values.reach-penalty",
    "--values.novelty",
    "--values.memory",
    "--replay.capacity",
    "--replay.batch-size",
    "--replay.batch-length",
    "--replay.carry",
    "--replay.retention",
    "--replay.long-term-share",
    "--replay.sampling",
    "--replay.coin",
    "--replay.storage",
    "--replay.online",
    "--replay.segment",
    "--optimizer.learning-rate",
    "--optimizer.warmup",
    "--optimizer.beta1",
    "--optimizer.beta2",
    "--optimizer.eps",
    "--optimizer.agc",
    "--evaluation.every",
    "--evaluation.episodes",
    "--evaluation.envs",
    "--evaluation.greedy",
    "--checkpoint.minutes",
    "--checkpoint.keep",
    "--log.every",
    "--log.tensorboard",
]
"""Every option of `train catch` with the backbone rssm. A new one is a decision: write it here."""

CATCH = ["--env.view", "--env.inverted", "--env.controls", "--env.background"]
"""What Catch adds."""
ATARI = [
    "--env.frame-skip",
    "--env.max-pool",
    "--env.sticky",
    "--env.noop-max",
    "--env.full-action-space",
    "--env.image-size",
    "--env.grayscale",
    "--env.resize",
    "--env.reward-clip",
    "--env.fire-on-reset",
    "--env.max-frames",
    "--env.life-loss",
]
"""What an Atari game adds."""


def flags_in_help(text: str) -> list[str]:
    return re.findall(r"^\W (--[a-z][\w.-]*)", text, flags=re.MULTILINE)


def test_the_options_of_train_are_these(call):
    assert sorted(flags_in_help(call("train", "catch", "--help").out)) == sorted(TRAIN + CATCH)
    with_atari = flags_in_help(call("train", "atari:pong", "--help").out)
    assert sorted(with_atari) == sorted(TRAIN + ATARI)


def test_every_option_has_help():
    for config in (Config(), config_for("atari:Pong"), config_for("gym:X-v0"), TrainChoices()):
        for field in vars(config):
            assert field_docs(type(config)).get(field), (type(config), field)
    assert field_docs(Atari100kConfig)["sticky"]  # inherited


def print_config(call, *argv: str) -> dict:
    answer = call("train", *argv, "--print-config")
    assert answer.code == 0, answer.err
    return yaml.safe_load(answer.out)


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (["--steps", "1e5"], "steps", 100_000),
        (["--steps=2.5e3"], "steps", 2500),
        (["--seed", "-3"], "seed", -3),
        (["--train-ratio", "8"], "train_ratio", 8.0),
        (["--deterministic"], "deterministic", True),
        (["--replay.no-online"], "replay.online", False),
        (["--world-model.posterior", "x"], "world_model.posterior", "x"),
        (["--world_model.free_nats", "0"], "world_model.free_nats", 0.0),
        (["--precision", "32"], "precision", "32"),
        (["--backbone", "gru", "--backbone.deter", "1e2"], "backbone.deter", 100),
    ],
)
def test_values_are_read(call, argv, path, value):
    found = print_config(call, "catch", *argv)
    for key in path.split("."):
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_an_environment_brings_its_options(call):
    config = print_config(call, "atari:pong", "--device", "cpu", "--env.sticky", ".25")
    assert config["env"]["name"] == "atari:Pong"
    assert config["env"]["sticky"] == 0.25


def test_precedence_is_default_preset_file_flag(call, tmp_path):
    (tmp_path / "run.yaml").write_text("steps: 1e4\nseed: 5\nworld_model: {units: 24}\n")
    file = ["--config", "run.yaml"]
    assert Config().world_model.units == 64
    assert print_config(call, "catch", "--preset", "debug")["world_model"]["units"] == 16
    assert print_config(call, "catch", "--preset", "debug", *file)["world_model"]["units"] == 24
    config = print_config(
        call, "catch", "--preset", "debug", *file, "--world-model.units", "32", "--seed", "7"
    )
    assert (config["world_model"]["units"], config["seed"], config["steps"]) == (32, 7, 10_000)
    assert config["replay"]["batch_size"] == 4  # the preset's, which nothing else sets


def test_presets_stack_left_to_right(call):
    config = print_config(call, "catch", "--preset", "dreamerv3", "size12m", "--preset", "debug")
    assert config["world_model"]["units"] == 16
    assert config["optimizer"]["warmup"] == 10


def test_print_config_comes_back_through_config(call, tmp_path):
    argv = ("atari:seaquest", "--device", "cpu", "--env.max-pool", "1", "--seed", "4")
    text = call("train", *argv, "--print-config").out
    (tmp_path / "run.yaml").write_text(text)
    assert call("train", "--config", "run.yaml", "--print-config").out == text


def test_the_python_way_builds_the_same(call):
    config = load_config("catch", backbone="gru", steps="1e3", replay={"batch_size": 4})
    argv = ("--backbone", "gru", "--steps", "1e3", "--replay.batch-size", "4")
    assert print_config(call, "catch", *argv) == to_dict(config)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["ctch"], "unknown environment 'ctch'; did you mean 'catch'?"),
        (["atari:Pon"], "did you mean 'atari:Pong'?"),
        (["catch", "--stepz", "3"], "unknown option '--stepz'; did you mean '--steps'"),
        (["catch", "--stepz=3"], "unknown option '--stepz'"),
        (["catch", "--world-model.unimx", "1"], "did you mean '--world-model.unimix'"),
        (
            ["catch", "--preset", "dreamrv3"],
            "no preset 'dreamrv3'; did you mean 'dreamerv3' or 'drama'?",
        ),
        (["catch", "--backbone", "rsm"], "no backbone 'rsm'; did you mean 'rssm'?"),
        (
            ["catch", "--backbone", "gru", "--backbone.blocks", "4"],
            "of backbone.name rssm, not of gru",
        ),
        (["catch", "--steps", "abc"], "--steps is a whole number, not 'abc'"),
        (["catch", "--steps", "1.5"], "--steps is a whole number, not '1.5'"),
        (["catch", "--steps", "-5"], "steps is at least 1, not -5"),
        (["catch", "--steps"], "--steps needs a value"),
        (["catch", "--train-ratio", "nan"], "train_ratio is at least 0, not nan"),
        (["catch", "--world-model.unimix", "2"], "world_model.unimix lies between 0 and 1"),
        (["catch", "--precision", "8"], "--precision is one of auto, 32, bf16, 16, not '8'"),
        (["catch", "--replay.carry", "sometimes"], "is not one of auto, stored, zero"),
        (["--steps", "5", "catch"], "--steps takes one value, not '5 catch'; the environment"),
        (["catch", "atari:Pong"], "unexpected argument 'atari:Pong'; the environment comes first"),
        (["catch", "--actor-critic.expectile=0.7"], "of actor_critic.name iql, not of dreamer"),
        (["catch", "--backbone.window", "8"], "backbone.name transformer, not of rssm"),
        (["catch", "--optimizer.name", "adam"], "optimizer.name: a preset or a config file"),
        (["catch", "--backbone.name", "gru"], "option --backbone.name: --backbone chooses that"),
        (["--env", "catch"], "there is no option --env: the environment comes first"),
        (["atari100k:Pong", "--env.sticky", "0.25", "--device", "cpu"], "use 'atari:Pong'"),
        (["--config", "nowhere.yaml"], "cannot read the config file nowhere.yaml: No such file"),
        (["catch", "--preset"], "argument --preset: expected at least one argument"),
    ],
)
def test_a_mistake_gets_one_sentence(refuse, argv, text):
    assert text in refuse("train", *argv, "--print-config")


def test_the_environment_comes_first():
    choices, request = read_choices(
        ["catch", "--preset", "a", "b", "--steps", "5", "--preset", "c", "--quiet"],
        "train",
        TrainChoices,
    )
    assert choices.preset == ("a", "b", "c")
    assert choices.quiet
    assert (request.env, request.rest) == ("catch", ["--steps", "5"])


def test_the_device_is_seen_before_the_presets_are_chosen():
    choices, request = read_choices(["--device=cuda:1", "--seed", "2"], "train", TrainChoices)
    assert choices == TrainChoices()
    assert (request.device, request.rest) == ("cuda:1", ["--device=cuda:1", "--seed", "2"])


def test_flags_leave_out_the_names_that_stage_one_settles():
    assert not [flag for flag in flags(Config()) if flag.endswith(".name")]
