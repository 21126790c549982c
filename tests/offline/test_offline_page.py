"""docs/offline.md: its commands run, small; its example trains; its tables are the code's."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from worldmodels.cli import main
from worldmodels.offline import from_npz
from worldmodels.offline.collect import LEVELS

PAGE = (Path(__file__).parents[2] / "docs" / "offline.md").read_text()
CODE = re.findall("```python\n(.*?)```", PAGE, re.S)
COMMANDS = re.findall(r"^    (worldmodels .*)$", PAGE, re.M)
SMALL = {
    "--steps 1500": "--steps 6 --preset debug",
    "--steps 5500": "--steps 40",
    "--steps 8000": "--steps 24 --preset debug",
    "--checkpoint.minutes 0.1": "--checkpoint.minutes 0",
    "--episodes 400": "--episodes 6",
}


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs a line of the page in an empty folder, made small; what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        for large, small in SMALL.items():
            line = line.replace(large, small)
        with pytest.raises(SystemExit) as left:
            main([*shlex.split(line)[1:], *(["--episodes", "4"] if " eval " in line else [])])
        told = capsys.readouterr()
        assert not left.value.code, told.err
        return told.out

    return run


def test_the_whole_path(command):
    """Collect, train offline, evaluate, go on online."""
    assert len(COMMANDS) == 7
    collect, train, evaluate, online = COMMANDS[:4]
    assert "6 episodes, 54 steps" in command(collect)
    assert "no environment is stepped" in command(train)
    assert "normalised" in command(evaluate)
    assert "the environments are stepped from here on" in command(online)
    status = json.loads(Path("runs/offline/status.json").read_text())
    assert (status["status"], status["step"]) == ("done", 40)


def test_levels_of_a_run(command):
    """A run that learns nothing has no medium of its own: its scores are written by hand."""
    train, collect = COMMANDS[5:]
    command(train)
    lines = [{"kind": "eval", "step": s, "mean": m} for s, m in ((12, -0.1), (24, 0.9))]
    Path("runs/source/scores.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    told = command(collect)
    assert re.search(r"medium +runs/source +12 ", told)
    assert re.search(r"expert +runs/source +24 ", told)
    for level in LEVELS:
        assert f"`{level}`" in PAGE


def test_the_example_trains(command, monkeypatch, tmp_path):
    (tmp_path / "walk").mkdir()
    exec(CODE[0], {})
    line = re.search(r"`(worldmodels train my-robot .*?)`", PAGE)
    assert line
    told = command(f"{line[1].replace('2000', '4')} --preset debug --run runs/walk")
    assert "nothing is evaluated, because the environment my-robot" in told
    assert "1 continuous actions" in told


def test_every_key_is_on_the_page():
    for key in ("observations", "observations.NAME", *from_npz.COLUMNS, *from_npz.OPTIONS):
        assert f"`{key}`" in PAGE


def test_the_sentence_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walk").mkdir()
    exec(CODE[0], {})
    file = tmp_path / "walk" / "007.npz"
    with np.load(file) as arrays:
        changed = dict(arrays)
    changed["rewards"][11] = np.nan
    np.savez(file, **changed)
    sentence = re.search(r"^    (error: walk/007.*)$", PAGE, re.M)
    assert sentence
    with pytest.raises(SystemExit) as left:
        main(["train", "my-robot", "--preset", "debug", "--offline", "walk", "--run", "runs/x"])
    assert left.value.code == 2
    assert capsys.readouterr().err.strip() == sentence[1]
    assert not (tmp_path / "runs" / "x").exists()
