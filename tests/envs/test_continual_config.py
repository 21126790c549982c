"""The options of a task stream: built in, from a file, from flags, and their mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest

from worldmodels.config import Config
from worldmodels.config_file import dump_config, from_dict, load_config_file
from worldmodels.envs.continual_config import ContinualConfig
from worldmodels.envs.continual_tasks import read_task
from worldmodels.envs.errors import UserError
from worldmodels.envs.procgen_config import ProcgenConfig
from worldmodels.envs.registry import config_for, evaluations, task_at, task_names

STREAM = """
tasks:
  - catch
  - {name: catch, label: flipped, view: flipped}
  - name: memory:repeat-1
    symbols: 3
steps_per_task: 1e3
order: reversed
"""


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "my_tasks.yaml"
    path.write_text(STREAM)
    return path


def test_a_file(stream: Path, monkeypatch):
    config = config_for(f"continual:{stream}")
    assert config.task_names == ("catch", "flipped", "memory:repeat-1")
    assert config.parts[1].config.view == "flipped"
    assert config.parts[2].config.symbols == 3
    assert (config.steps_per_task, config.cycles, config.visits) == (1000, 1, (2, 1, 0))
    monkeypatch.chdir(stream.parent)
    assert config_for("continual:my_tasks.yaml") == config, "a path is made absolute"


def test_a_file_is_read_once_and_travels_with_the_run(stream: Path, tmp_path: Path):
    """The run's config.yaml loads although the file is edited, broken or gone."""
    config = Config(env=replace(config_for(f"continual:{stream}"), cycles=2, task="flipped"))
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(config))
    for change in ("tasks: [memory:catch]\nsteps_per_task: 5", "tasks: [", None):
        stream.unlink() if change is None else stream.write_text(change)
        assert load_config_file(saved) == config


def test_options_over_the_streams_own():
    given = {"steps_per_task": "1e3", "cycles": "2", "order": "reversed", "order_seed": "3"}
    env = from_dict({"env": {"name": "continual:catch", **given}}, Config()).env
    assert (env.visits, env.total_steps) == ((2, 1, 0) * 2, 6000)
    text = "catch,{name: catch, label: b, view: flipped}"
    env = from_dict({"env": {"name": "continual:catch", "tasks": text}}, Config()).env
    assert (env.task_names, env.parts[1].config.view) == (("catch", "b"), "flipped")


@pytest.mark.parametrize("name", ["catch", "minatar", "coinrun", "atari"])
def test_the_text_of_a_task_reads_back(name):
    for task in config_for(f"continual:{name}").parts:
        assert read_task(task.text) == task


def test_the_six_variants_of_coinrun():
    parts = config_for("continual:coinrun").parts
    assert [task.label for task in parts] == [
        *("CoinRun", "+NB", "+NB+RT", "+NB+RT+GA", "+NB+RT+GA+MA", "+NB+RT+GA+MA+CA")
    ]
    changed = ["use_backgrounds", "restrict_themes", "use_generated_assets"]
    changed += ["use_monochrome_assets", "center_agent"]
    plain = parts[0].config
    for count, task in enumerate(parts):
        options = vars(task.config).items()
        differs = [name for name, value in options if value != getattr(plain, name)]
        assert sorted(differs) == sorted(changed[:count])
    assert not parts[-1].config.use_backgrounds
    assert not parts[-1].config.center_agent


def test_labels_and_evaluations():
    config = config_for("continual:catch")
    assert task_names(config) == ("upright", "flipped", "inverted")
    assert {label: env.task for label, env in evaluations(config).items()} == {
        label: label for label in task_names(config)
    }
    alone = replace(config, task="flipped")
    assert evaluations(alone) == {"flipped": alone}
    assert task_names(alone) == task_names(config), "the index of a label never changes"
    assert task_at(config, 16_000) == "flipped"
    catch = config_for("catch")
    assert (task_names(catch), task_at(catch, 10**6)) == (("catch",), "catch")
    assert evaluations(catch) == {"catch": catch}


def test_held_out_levels_are_evaluated_beside_their_task():
    few = "{name: procgen:coinrun, label: few, num_levels: 9, start_level: 3, center_agent: false}"
    every = "{name: procgen:coinrun, label: every}"
    config = ContinualConfig(tasks=(few, every), steps_per_task=10, order="reversed")
    found = evaluations(config)
    assert list(found) == ["few", "few all levels", "every"]
    assert found["few"] == replace(config, task="few")
    held_out = found["few all levels"]
    assert (held_out.task, held_out.task_names) == ("few", ("few", "every"))
    assert held_out.parts[0].config == ProcgenConfig("procgen:coinrun", center_agent=False)
    assert held_out.parts[1] == config.parts[1]
    assert evaluations(replace(config, task="every")) == {"every": replace(config, task="every")}
    assert list(evaluations(found["few"])) == ["few", "few all levels"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [catch", "is not valid YAML at line"),
        (
            "tasks: [catch]\ncycles: 2\ntasks: [a]",
            "at line 3 ('tasks' was given at line 1 already)",
        ),
        ("tasks:\n- name: catch\n  label: a\n  name: b", "line 4 ('name' was given at line 2 al"),
        ("tasks: [catch]\nsteps_per_task: 5\norder_seed: -1", "order_seed is at least 0, not -1"),
        ("- catch", "it has no list `tasks`"),
        ("steps_per_task: 5", "it has no list `tasks`"),
        ("tasks: []\nsteps_per_task: 5", "tasks is a list of environments, not []"),
        ("tasks: catch\nsteps_per_task: 5", "tasks is a list of environments, not 'catch'"),
        ("tasks: [catch]", "steps_per_task is missing"),
        ("tasks: [catch]\nsteps_per_tasks: 5", "'steps_per_tasks'; did you mean 'steps_per_task'?"),
        ("tasks: [catch]\nsteps_per_task: many", "steps_per_task is a whole number, not 'many'"),
        ("tasks: [catch]\nsteps_per_task: -1", "steps_per_task is at least 1, not -1"),
        ("tasks: [catch]\nsteps_per_task: 5\ncycles: 0", "cycles is at least 1, not 0"),
        ("tasks: [catch]\nsteps_per_task: 5\norder: revers", "did you mean 'reversed'?"),
        ("tasks: [ctch]\nsteps_per_task: 5", "tasks: unknown environment 'ctch'; did you mean"),
        ("tasks: [3]\nsteps_per_task: 5", "a task is an environment's name or a mapping"),
        ("tasks: [{label: a}]\nsteps_per_task: 5", "{'label': 'a'} has no name"),
        ("tasks: [{name: catch, vew: flipped}]\nsteps_per_task: 5", "did you mean 'view'?"),
        (
            "tasks: [{name: catch, view: left}]\nsteps_per_task: 5",
            "task 'catch': view is one of upright, flipped, not 'left'",
        ),
        (
            "tasks: [{name: atari:Pong, sticky: 7}]\nsteps_per_task: 5",
            "atari:Pong: sticky is 7.0, but it must be",
        ),
        ("tasks: [{name: catch, label: ''}]\nsteps_per_task: 5", "has an empty label"),
        ("tasks: [catch, catch]\nsteps_per_task: 5", "two tasks are called 'catch'"),
        ("tasks: [continual:catch]\nsteps_per_task: 5", "is a stream itself"),
    ],
)
def test_a_mistake_in_a_file_names_file_and_key(stream: Path, content, message):
    stream.write_text(content)
    with pytest.raises(UserError) as error:
        config_for(f"continual:{stream}").total_steps  # noqa: B018
    assert str(stream) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "fliped"}, "has no task 'fliped'; did you mean 'flipped'?"),
        ({"task": "xyz"}, "has no task 'xyz'; there are upright, flipped, inverted"),
        ({"name": "continual:ctch"}, "did you mean 'continual:catch'?"),
        ({"name": "continual:"}, "there are continual:catch, continual:minatar"),
        ({"tasks": ("{name: catch",)}, "is not a YAML mapping"),
        ({"tasks": ("{name: catch, name: a}",)}, "('name' was given at line 1 already)"),
        ({"order_seed": -1, "order": "shuffled"}, "order_seed is at least 0, not -1"),
        ({"order": "backwards"}, "order is one of given, reversed, shuffled"),
        ({"steps_per_task": -4}, "steps_per_task is at least 1, not -4"),
    ],
)
def test_a_mistake_in_the_options(options, message):
    with pytest.raises(UserError) as error:
        ContinualConfig(**options)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read the task stream .*no\.yaml: No such file"):
        _ = config_for(f"continual:{tmp_path / 'no.yaml'}").parts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "3 tasks x 16000 steps = 48000 steps; order upright, flipped, inverted"),
        ({"task": "flipped"}, "16000 steps of the task 'flipped' alone"),
        (
            {"cycles": 2, "order": "reversed"},
            "3 tasks x 16000 steps x 2 cycles = 96000 steps; order inverted, flipped, upright",
        ),
    ],
)
def test_the_schedule_in_a_line(options, told):
    config = ContinualConfig(**options)
    line = config.describe(config.total_steps)
    assert line.endswith(told)
    assert config.describe(config.total_steps + 1).endswith("stay on the last task")


@pytest.mark.parametrize("order", ["given", "reversed", "shuffled"])
def test_a_seed_of_an_order_that_is_not_drawn_is_told(order):
    line = ContinualConfig(order=order, order_seed=3).describe(24000)
    told = f"order_seed 3 has no effect, because order is {order}"
    assert (told in line) == (order != "shuffled")
    assert "no effect" not in ContinualConfig(order=order).describe(24000)


def test_a_short_run_says_where_it_ends():
    line = ContinualConfig().describe(18_000)
    assert line.endswith("the run's 18000 steps end in task 'flipped'")
