"""The wheel, installed into a clean environment, works from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("worldmodels", "backbones", "kernels", "envs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds our wheel and, on its path, the installed dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    shutil.rmtree(source)
    venv.create(folder / "venv", with_pip=False)
    (wheel,) = folder.glob("worldmodels_rl-*.whl")
    python = folder / "venv" / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A folder that a .pth file adds has its own .pth files ignored, so our checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return site


def worldmodels(site: Path, *args: str, cwd: Path) -> str:
    command = site.parents[2] / "bin" / "worldmodels"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(command), *args], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_one_package_lands(site: Path):
    names = {path.name for path in site.iterdir()} - {"dependencies.pth", "__pycache__"}
    assert {name for name in names if not name.endswith(".dist-info")} == {"worldmodels"}


def test_a_command_runs_from_another_folder(site: Path, tmp_path: Path):
    assert "train" in worldmodels(site, "--help", cwd=tmp_path)
    told = worldmodels(site, "train", "catch", "--preset", "debug", "--steps", "60", cwd=tmp_path)
    assert "catch at step 60: mean return" in told
    (run,) = tmp_path.glob("runs/catch/*")
    assert '"commit": null' in (run / "environment.json").read_text(), "not from a checkout"


def test_the_installed_package_shadows_nothing(site: Path, tmp_path: Path):
    code = "import worldmodels.kernels as k; print(k.__file__); import kernels"
    python = site.parents[2] / "bin" / "python"
    done = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert str(site) in done.stdout
    assert "No module named 'kernels'" in done.stderr
