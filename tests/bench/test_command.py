"""`worldmodels bench backbones`, whole, in a tiny setting."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from worldmodels.cli import main
from worldmodels.registry import backbone_names

MINE = """
from dataclasses import dataclass

from torch import nn

from worldmodels.backbones.base import Backbone, LeafSpec, State


@dataclass(frozen=True)
class Options:
    name: str = "my_backbones:{name}"
    width: int = 32


class {name}(Backbone):
    Config = Options

    def __init__(self, config, input_size):
        super().__init__(config, input_size, config.width)
        if config.width % 4:
            raise ValueError("width is a multiple of 4")
        self.cell = nn.RNNCell(input_size, config.width)

    def state_spec(self):
        return {{"h": LeafSpec((self.output_size,))}}

    def step(self, u, state, reset):
        h = self.cell(u, self.apply_reset(state, reset)["h"])
        {fail}
        return h, State({{"h": h}})
"""


@pytest.fixture
def call(capfd, monkeypatch, tmp_path):
    """`call("--quick", ...)` -> (exit code, stdout, stderr), in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["bench", "backbones", *argv])
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def write_backbone(tmp_path, monkeypatch):
    """`write_backbone("Mine")` makes `my_backbones:Mine` importable."""

    def write(name: str, fail: str = "") -> str:
        monkeypatch.delitem(sys.modules, "my_backbones", raising=False)
        (tmp_path / "my_backbones.py").write_text(MINE.format(name=name, fail=fail))
        return f"my_backbones:{name}"

    return write


class Page(HTMLParser):
    """Counts tags and keeps the cells and the sources of images."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.sources, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key == "src"]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "td":
            self.cells.append(data)


def test_the_command_writes_tables_plots_and_a_page(call, write_backbone, tmp_path):
    path = write_backbone("Mine")
    options = ["--quick", "--backbone", "gru", path, "--out", "out"]
    code, out, err = call("catch", *options, "--prediction", "x", "hx")
    assert code == 0, err
    folder = tmp_path / "out"
    report = json.loads((folder / "results.json").read_text())
    names = ["gru", path, "gru (hx)", f"{path} (hx)"]
    assert list(report["models"]) == names
    for name, model in report["models"].items():
        assert abs(model["parameters"] / report["parameters"] - 1) <= report["tolerance"]
        assert name in out
    assert report["command"].startswith("worldmodels bench backbones catch --quick")
    assert report["machine"]["cores"]
    _check_speed(report["speed"], names)
    _check_prediction(report["prediction"], names)
    page = Page((folder / "index.html").read_text())
    assert page.tags.count("table") == out.count("\nmodel ")
    assert set(names) <= set(page.cells)
    plots = sorted(file.name for file in folder.glob("*.png"))
    assert plots == ["memory.png", "prediction.png", "steps.png", "time.png"]
    assert len(page.sources) == len(plots)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for file in folder.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")


def _check_speed(speed, names):
    parallel = [name for name in names if "(hx)" not in name]
    timed = {(p["model"], p["length"]) for p in speed["points"]}
    assert timed == {(name, 4) for name in names} | {(name, 8) for name in parallel}
    for point in speed["points"]:
        assert point["observe"] > 0
        assert point["peak_bytes"] > 0
        assert (point["sequence"] is None) == ("(hx)" in point["model"])
    fitted = {(fit["model"], fit["part"]) for fit in speed["growth"]}
    assert fitted == {(name, part) for name in parallel for part in ("sequence", "observe")}
    for model in speed["models"].values():
        assert model["carry_bytes"] > model["state_bytes"] > 0
        assert model["emit"]["bytes"] == model["emit"]["rows"] * model["carry_bytes"]
        assert model["step_seconds"] > 0
        assert model["imagined_rows_per_second"] > 0


def _check_prediction(prediction, names):
    assert list(prediction["models"]) == names
    assert prediction["windows"][0] == 8  # all of them, at depth 0
    for curves in [*prediction["models"].values(), *prediction["baselines"].values()]:
        for quantity in ("observation", "reward", "continue"):
            assert len(curves[quantity]) == 5
            shown = [value is not None for value in curves[quantity]]
            assert shown == [count > 0 for count in prediction["windows"]]


def test_a_recording_is_used_again(call, tmp_path):
    common = ["--quick", "--backbone", "gru", "--speed", "none", "--replay", "rows.npz", "--json"]
    first = call(*common, "--out", "a")
    written = (tmp_path / "rows.npz").stat().st_mtime_ns
    second = call(*common, "--out", "b")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert (tmp_path / "rows.npz").stat().st_mtime_ns == written
    errors = [json.loads(out)["prediction"]["models"]["gru"] for _, out, _ in (first, second)]
    for quantity in ("observation", "reward", "continue"):
        assert errors[0][quantity] == errors[1][quantity]
    assert "speed" not in json.loads(second[1])
    assert not (tmp_path / "b" / "time.png").exists()


def test_a_backbone_that_fails_is_named(call, write_backbone):
    path = write_backbone("Broken", fail="raise IndexError('my mistake')")
    code, _, err = call("--quick", "--backbone", "gru", path, "--prediction", "none")
    assert code == 1
    assert path in err
    assert "IndexError: my mistake" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--backbone", "gruu"], "no backbone 'gruu'; did you mean 'gru'?"),
        (["--backbone", "gru", "no_such_module:Mine"], "no_such_module"),
        (["catsch"], "unknown environment 'catsch'"),
        (["--lenghts", "4"], "unknown option '--lenghts'; did you mean '--lengths'"),
        (["--speed", "none", "--prediction", "none"], "nothing to measure"),
        (["--speed", "none", "x"], "--speed is none, or a choice of x and hx"),
        (["--backbone", "gru", "--parameters", "10"], " has no deter at which"),
    ],
)
def test_a_mistake_gets_one_sentence(call, argv, said):
    code, _, err = call("--quick", *argv) if argv != ["catsch"] else call(*argv, "--quick")
    assert code == 2
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_needs_nothing_slow(tmp_path):
    code = (
        "import sys; from worldmodels.cli import main\n"
        "try: main(['bench', 'backbones', '--help'])\n"
        "finally:\n"
        "    slow = {'torch', 'numpy', 'matplotlib', 'lightning'}\n"
        "    print('slow:', *sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "slow:"
    assert all(name in done.stdout for name in backbone_names())
