"""The modules of experiments/edge_of_reach, as its command imports them."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "edge_of_reach"


@pytest.fixture(scope="session")
def study() -> Iterator[Any]:
    """`study("lattice")` is the module of that name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    patch.undo()
