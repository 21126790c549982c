"""`worldmodels collect`, and what `train --offline` and `--online` make of it."""

import json

import pytest
import yaml

from worldmodels import trainer
from worldmodels.config_file import dump_config
from worldmodels.presets import load_config


@pytest.fixture
def random_set(call, tmp_path):
    answer = call("collect", "catch", "--policy", "random", "--episodes", "5", "--out", "set")
    assert answer.code == 0, answer.err
    assert "5 episodes, 45 steps: set; next:" in answer.out
    assert "worldmodels train catch --offline set" in answer.out
    return tmp_path / "set"


def metadata(folder) -> dict:
    return json.loads((folder / "data" / "metadata.json").read_text())


def test_a_data_set_says_how_it_was_made(random_set):
    known = metadata(random_set)
    assert (known["ref_min_score"], known["ref_max_score"]) == (-0.6, 1.0)
    assert (known["total_episodes"], known["jpeg_encoding"]) == (5, False)
    ours = known["worldmodels"]
    assert ours["environment"]["name"] == "catch"
    assert (ours["policy"], ours["seed"]) == ("random", 0)
    (part,) = ours["parts"]
    assert (part["policy"], part["episodes"]) == ("random", 5)
    assert -1 <= part["mean_return"] <= 1
    assert "commit" in ours


def test_options_of_the_environment_and_references(call, tmp_path):
    argv = ("--policy", "random", "--episodes", "2", "--out", "set", "--ref-max-score", "7")
    answer = call("collect", "catch", "--env.view", "flipped", "--env.inverted=true", *argv)
    assert answer.code == 0, answer.err
    known = metadata(tmp_path / "set")
    environment = known["worldmodels"]["environment"]
    assert (environment["view"], environment["inverted"]) == ("flipped", True)
    assert known["ref_max_score"] == 7


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["catch"], "the following arguments are required: --policy, --out"),
        (["--policy", "random", "--out", "x"], "name the environment first"),
        (["catch", "--policy", "rndom", "--out", "x"], "did you mean 'random'"),
        (["catch", "--policy", "medium", "--out", "x"], "name it with --run RUN"),
        (["catch", "--policy", "random:0", "--out", "x"], "shares above 0"),
        (["catch", "--policy", "random+random", "--out", "x"], "different policies"),
        (
            ["catch", "--policy", "random:0.01+runs/a", "--out", "x", "--episodes", "3"],
            "of 3 episodes none is left for random",
        ),
        (["catch", "--policy", "random", "--out", "x", "--sed", "1"], "did you mean '--seed'"),
        (["catch", "--policy", "random", "--out", "x", "--env.veiw", "1"], "'--env.view'"),
        (["catch", "--policy", "random", "--out", "x", "--env.view"], "--env.view needs a value"),
        (["catch", "--policy", "random", "--out", "x", "--env.view", "up"], "--env.view is one of"),
        (
            ["catch", "--policy", "random", "--out", "x", "--env.background", "["],
            "is a number, not",
        ),
        (["ctch", "--policy", "random", "--out", "x"], "did you mean 'catch'"),
        (["continual:catch", "--policy", "random", "--out", "x"], "is a stream of tasks"),
        (["catch", "--policy", "random", "--out", ".", "--episodes", "1"], "exists already"),
        (["catch", "--policy", "expert", "--out", "x", "--run", "runs/a"], "does not exist"),
    ],
)
def test_mistakes(refuse, words, text):
    assert text in refuse("collect", *words)


@pytest.fixture
def trained(monkeypatch):
    """The calls of `worldmodels.trainer.train`."""
    calls = []

    def train(config, run=None, **options):
        calls.append({"config": config, "run": run, **options})
        return run or "runs/fresh"

    monkeypatch.setattr(trainer, "train", train)
    return calls


def run_folder(tmp_path, **options) -> str:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(load_config("catch", ["debug"], **options)))
    return "runs/one"


def test_offline_is_an_option_like_any_other(call, trained):
    answer = call("train", "catch", "--offline", "set")
    assert "command line: --offline set (was none)" in answer.out
    assert trained[0]["config"].offline == "set"
    printed = yaml.safe_load(call("train", "catch", "--offline", "set", "--print-config").out)
    assert printed["offline"] == "set"


def test_an_empty_name_is_no_data_set(call, trained):
    """As from an unset variable: the run would step the environment instead."""
    answer = call("train", "catch", "--offline", "")
    assert answer.code == 2
    assert "--offline is empty; name a data set" in answer.err
    assert trained == []


def test_a_missing_environment_goes_through_print_config(call, tmp_path):
    argv = ("train", "no.such:Robot", "--offline", "set", "--print-config")
    text = call(*argv).out
    assert yaml.safe_load(text)["env"] == {"name": "no.such:Robot"}
    (tmp_path / "run.yaml").write_text(text.replace("Robot", "Robot\n  arms: 2"))
    again = yaml.safe_load(call("train", "--config", "run.yaml", "--print-config").out)
    assert again["env"] == {"name": "no.such:Robot", "arms": 2}


def test_without_a_data_set_an_environment_must_be_known(refuse):
    assert "did you mean 'catch'" in refuse("train", "ctch")


def test_online_goes_on_in_the_environment(call, trained, tmp_path):
    run = run_folder(tmp_path, offline="set")
    answer = call("train", "--resume", run, "--online", "--steps", "400")
    assert answer.code == 0, answer.err
    assert (trained[0]["config"].offline, trained[0]["resume"]) == ("", True)
    call("train", "--resume", run, "--steps", "400")
    assert trained[1]["config"].offline == "set"


def test_online_belongs_to_a_run_that_learned_from_a_data_set(refuse, tmp_path):
    run = run_folder(tmp_path)
    for argv in (("--resume", run, "--online"), ("catch", "--online")):
        assert "--online lets a run that learned from a data set" in refuse("train", *argv)


def test_a_resumed_run_keeps_its_data_set(refuse, tmp_path):
    run = run_folder(tmp_path, offline="set")
    told = refuse("train", "--resume", run, "--offline", "other")
    assert "--offline stays set" in told


def test_an_export_can_be_learned_from(random_set):
    """What the replay writes and what is collected are of one kind."""
    from worldmodels.offline.dataset import open_dataset

    data = open_dataset(str(random_set))
    assert data.environment == metadata(random_set)["worldmodels"]["environment"]
    assert sum(len(rows) for rows in data.read()) == 50 == data.rows
