"""Learning, proven by runs of minutes: the short form of experiments/pendulum, one seed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from worldmodels.trainer import train

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "experiments" / "pendulum" / "run.py"


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("pendulum_study", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("preset", ["sac", "mbpo", "mopo", "ravl-mbpo"])
def test_pendulum_is_swung_up(preset: str, study, tmp_path: Path):
    """A random policy has about -1200, the best about -150."""
    run = train(study.configuration(preset, seed=1), tmp_path / "run", quiet=True)
    last = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["episodes"]) == ("eval", 20)
    assert last["mean"] > study.BOUND
