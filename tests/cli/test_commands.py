"""`envs`, `runs`, `eval`, `dream`, `bench` and `doctor`: what they print of what they are given."""

import json
from types import SimpleNamespace

import pytest

from worldmodels import agent, doctor, evaluation
from worldmodels.config_file import dump_config, load_config_file
from worldmodels.envs import registry
from worldmodels.presets import load_config


@pytest.fixture
def folder(tmp_path):
    """runs/catch of a finished run."""
    folder = tmp_path / "runs" / "catch"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(load_config("catch", ["debug"])))
    (folder / "status.json").write_text('{"status": "done", "step": 200}')
    rows = [{"kind": "eval", "mean": 0.25}, {"kind": "train", "return": 1}]
    (folder / "scores.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "ev')
    return folder


def test_envs_lists_suites_names_and_installs(call):
    text = call("envs").out
    assert "catch" in text
    assert "atari100k:Pong" in text
    suites = json.loads(call("envs", "--json").out)
    assert {"catch", "minatar", "atari", "gym"} <= {suite["suite"] for suite in suites}
    installed = json.loads(call("envs", "--installed", "--json").out)
    assert installed == [suite for suite in suites if suite["installed"]]


def test_runs_shows_the_last_score_and_tolerates_broken_folders(call, folder, tmp_path):
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("env: [")
    (broken / "status.json").write_text("{")
    lines = call("runs").out.splitlines()
    assert lines[0].split() == [
        *("run", "environment", "backbone", "status", "step", "score", "MiB", "when")
    ]
    row = next(line for line in lines if "runs/catch" in line).split()
    assert row[1:6] == ["catch", "rssm", "done", "200/200", "0.250"]
    assert any("runs/broken" in line and "broken" in line.split()[3] for line in lines)
    found = {summary["path"]: summary for summary in json.loads(call("runs", "--json").out)}
    assert found["runs/catch"]["score"] == 0.25
    assert found["runs/broken"]["env"] is None


def test_runs_of_an_empty_and_of_a_missing_folder(call, refuse):
    assert "`worldmodels train catch` makes one" in call("runs").out
    assert "there is no folder nowhere" in refuse("runs", "nowhere")


@pytest.fixture
def scores(monkeypatch):
    """Replaces the model and its episodes; holds what `evaluate` was asked for."""
    asked = {}
    monkeypatch.setattr(
        agent,
        "Agent",
        SimpleNamespace(
            load=lambda run, *given: SimpleNamespace(config=load_config_file(run / "config.yaml"))
        ),
    )

    def evaluate(player, episodes, **options):
        asked.setdefault("tasks", []).append(options.pop("env"))
        asked.update(episodes=episodes, **options)
        numbers = dict.fromkeys(("mean", "std", "median", "min", "max"), 0.5)
        told = {"episodes": episodes, "greedy": options["greedy"], "seed": 1, "step": 200}
        known = {"random_score": -0.6, "reference_score": 1.0, "normalized": 0.6875}
        return {**told, **numbers, **known, "returns": [0.5], "lengths": [9]}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return asked


def test_eval_prints_and_appends_the_scores(call, folder, scores):
    answer = call("eval", "runs/catch", "--episodes", "1e1", "--greedy", "--seed", "1")
    assert answer.code == 0
    assert not scores.pop("stop")()
    catch = load_config("catch").env
    assert scores == {"episodes": 10, "seed": 1, "greedy": True, "num_envs": 8, "tasks": [catch]}
    for text in ("10 episodes, actions most probable", "mean", "0.500", "normalised", "0.688"):
        assert text in answer.out
    last = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["mean"], last["step"]) == ("eval", 0.5, 200)
    assert last["task"] == "catch"


def test_eval_and_runs_tell_every_task(call, folder, scores):
    (folder / "config.yaml").write_text(dump_config(load_config("continual:catch", ["debug"])))
    table = call("eval", "runs/catch").out.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["task", "upright", "flipped", "inverted"]
    assert [env.task for env in scores["tasks"]] == ["upright", "flipped", "inverted"]
    rows = [json.loads(line) for line in call("eval", "runs/catch", "--json").out.splitlines()]
    assert [row["task"] for row in rows] == ["upright", "flipped", "inverted"]
    told = [(100, 0.5), (100, 0.5), (200, 0.25), (200, 0.75), (200, 1.0)]
    lines = [json.dumps({"kind": "eval", "step": step, "mean": mean}) for step, mean in told]
    (folder / "scores.jsonl").write_text("\n".join(lines))
    assert json.loads(call("runs", "--json").out)[0]["score"] == pytest.approx(2 / 3)


def test_eval_prints_json(call, folder, scores):
    assert json.loads(call("eval", "runs/catch", "--json").out)["returns"] == [0.5]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["eval", "runs/cach"], "did you mean 'runs/catch'?"),
        (["dream", "runs"], "runs is no run folder"),
        (["eval"], "the following arguments are required: RUN"),
        (["eval", "runs/catch", "--episodes", "0"], "a whole number from 1 up is wanted, not '0'"),
        (["eval", "runs/catch", "--checkpoint", "5"], "has no checkpoint of step 5"),
        (["eval", "runs/catch"], "holds no checkpoint that can be read"),
        (["bench", "update", "--repeats", "0"], "--repeats is at least 1, not 0"),
        (["bench", "update", "--reps", "3"], "did you mean '--repeats'"),
    ],
)
def test_mistakes(refuse, folder, argv, text):
    assert text in refuse(*argv)


def test_bench_update_reports_every_part(call):
    answer = call("bench", "update", "catch", "--preset", "debug", "--repeats", "1", "--json")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert report["command"].startswith("worldmodels bench update catch --preset debug")
    parts = report["sections"]
    assert set(parts) == {
        *("sampling", "world model", "imagination", "actor-critic", "backward", "optimiser")
    }
    assert all(part["seconds"] > 0 for part in parts.values())
    assert 0.8 < sum(part["share"] for part in parts.values()) <= 1
    forward = parts["world model"]["flops"] + parts["actor-critic"]["flops"]
    assert forward < parts["backward"]["flops"] < 3 * forward
    assert report["units"] == pytest.approx(report["seconds"] / report["unit_seconds"])
    assert 0 < report["peak_gib"] < 8
    assert report["machine"]["cores"] > 0


def test_bench_update_prints_a_table(call):
    answer = call("bench", "update", "catch", "--preset", "debug", "--repeats", "1")
    assert answer.code == 0, answer.err
    for text in ("world model", "GFLOP", "units of", "peak memory"):
        assert text in answer.out


def test_doctor_tries_everything(call):
    report = json.loads(call("doctor", "--json").out)
    assert report["device"] in "".join(report["reasons"])
    assert {kernel["operator"] for kernel in report["kernels"]} >= {"norm_silu", "max_pool"}
    works = {found["suite"]: found["works"] for found in report["environments"]}
    assert works["catch"]
    assert report["disk"]["mebibytes_per_second"] > 0
    assert report["training"]["works"]
    assert "--preset dreamerv3" in report["suggested"]


def test_doctor_says_how_to_install_what_is_missing(call, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "dry_run", lambda config: 1 / 0)
    answer = call("doctor")
    assert "minatar: MISSING" in answer.out
    assert 'run: pip install "worldmodels-rl[minatar]"' in answer.out
    assert answer.code == 2
    assert answer.err == "error: a training step failed: ZeroDivisionError: division by zero\n"
