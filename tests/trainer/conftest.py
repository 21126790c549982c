"""A tiny run of Catch that the tests of this folder share."""

from dataclasses import replace
from pathlib import Path

import pytest

from worldmodels.config import Config
from worldmodels.presets import load_config


@pytest.fixture(scope="session")
def tiny() -> Config:
    return replace(load_config("catch", presets=["debug"]), deterministic=True, threads=1)


@pytest.fixture(scope="session")
def finished(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from worldmodels.trainer import train

    return train(tiny, tmp_path_factory.mktemp("finished") / "run", quiet=True)


@pytest.fixture
def broken_copy(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "run"))
