"""`worldmodels train`: what it says and refuses; the trainer itself is replaced by a note."""

import pytest
import torch
import yaml

from worldmodels import trainer
from worldmodels.config_file import dump_config
from worldmodels.presets import load_config


@pytest.fixture
def trained(monkeypatch):
    """The calls of `worldmodels.trainer.train`."""
    calls = []

    def train(config, run=None, **options):
        calls.append({"config": config, "run": run, **options})
        return run or "runs/fresh"

    monkeypatch.setattr(trainer, "train", train)
    return calls


@pytest.fixture
def run_folder(tmp_path):
    """A folder that looks like a run, by the name that a command line gives it."""
    folder = tmp_path / "runs" / "catch"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(load_config("catch", ["debug"], seed=4)))
    return "runs/catch"


def test_train_says_where_its_options_come_from(call, trained, tmp_path):
    (tmp_path / "run.yaml").write_text("seed: 2\n")
    answer = call("train", "catch", "--config", "run.yaml", "--steps", "5e3", "--run", "here")
    assert answer.out.splitlines()[:3] == [
        "presets demo: default for catch",
        "config file run.yaml: seed",
        "command line: --steps 5000 (was 14000)",
    ]
    (told,) = trained
    assert (str(told["run"]), told["resume"], told["quiet"]) == ("here", False, False)
    assert (told["config"].seed, told["config"].steps) == (2, 5000)
    expected = "worldmodels train catch --config run.yaml --steps 5e3 --run here"
    assert told["command"] == expected


def test_quiet_says_nothing(call, trained):
    assert call("train", "catch", "--quiet").out == ""
    assert trained[0]["quiet"]
    assert trained[0]["run"] is None


def test_resume_takes_the_run_with_flags_over_it(call, trained, run_folder):
    answer = call("train", "--resume", run_folder, "--steps", "1e4", "--device", "cpu")
    assert answer.out.splitlines()[:2] == [
        f"resuming {run_folder}",
        "command line: --steps 10000 (was 200), --device cpu (was auto)",
    ]
    config = trained[0]["config"]
    assert trained[0]["resume"]
    assert (config.steps, config.seed, config.world_model.units) == (10_000, 4, 16)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--seed", "5"], "--seed stays 4"),
        (["--backbone.deter", "64"], "--backbone.deter stays 32"),
        (["--world-model.units", "64"], "--world-model.units stays 16"),
        (["--replay.batch-size", "8"], "--replay.batch-size stays 4"),
        (["--backbone", "gru"], "--backbone cannot be given beside it"),
        (["--preset", "demo"], "--preset cannot be given beside it"),
        (["--run", "other"], "--run cannot be given beside it"),
    ],
)
def test_resume_refuses_what_its_checkpoint_depends_on(refuse, trained, run_folder, argv, text):
    assert text in refuse("train", "--resume", run_folder, *argv)
    assert not trained


def test_resume_names_near_runs(refuse, run_folder):
    assert "did you mean 'runs/catch'?" in refuse("train", "--resume", "runs/cath")
    assert "is no run folder (it has no config.yaml)" in refuse("train", "--resume", "runs")
    assert "the environment cannot be given" in refuse("train", "catch", "--resume", run_folder)


@pytest.mark.parametrize("text", ["", "steps: [1", "- 1\n", "stepz: 1\n", "steps: many\n"])
def test_resume_of_a_damaged_configuration_names_the_file(refuse, run_folder, tmp_path, text):
    (tmp_path / run_folder / "config.yaml").write_text(text)
    assert f"{run_folder}/config.yaml" in refuse("train", "--resume", run_folder)


def test_dry_run_prints_memory_and_speed(call, monkeypatch):
    report = {
        "description": ["device cpu: as asked"],
        "seconds_per_update": 0.0123,
        "updates": 500,
        "hours_of_updates": 0.02,
        "peak_memory_gib": 0.5,
        "peak_gpu_memory_gib": None,
    }
    monkeypatch.setattr("worldmodels.dry_run.dry_run", lambda config: report)
    answer = call("train", "catch", "--dry-run")
    assert answer.code == 0
    for text in ("device cpu: as asked", "12 ms", "500 updates", "0.50 GiB"):
        assert text in answer.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda(refuse):
    assert "--device cuda needs a CUDA GPU" in refuse("train", "catch", "--device", "cuda")


def test_a_run_folder_that_cannot_be_written(refuse, tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = refuse("train", "catch", "--preset", "debug", "--run", "file/run")
    assert "cannot write the run in file/run" in answer


def test_a_folder_that_holds_a_run_is_not_overwritten(refuse, run_folder):
    assert "already holds a run" in refuse("train", "catch", "--run", run_folder)


def test_print_config_starts_nothing(call, trained):
    answer = call("train", "catch", "--print-config")
    assert yaml.safe_load(answer.out)["env"]["name"] == "catch"
    assert not trained
