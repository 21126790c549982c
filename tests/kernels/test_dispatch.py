"""Which implementation runs, and why."""

import os
import subprocess
import sys

import pytest
import torch

from worldmodels.kernels import dispatch
from worldmodels.kernels.max_pool import max_pool
from worldmodels.kernels.norm_silu import norm_silu
from worldmodels.kernels.sigmoid_error import sigmoid_error


@pytest.fixture(autouse=True)
def _chosen_afresh():
    dispatch.load.cache_clear()
    yield
    dispatch.load.cache_clear()


def test_default(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    for operator in dispatch.OPERATORS:
        choice = dispatch.choose(operator)
        assert (choice.operator, choice.implementation) == (operator, "eager")
        assert choice.reason.startswith("default")
        assert dispatch.load(operator).__module__ == f"worldmodels.kernels.{operator}.eager"


@pytest.mark.parametrize("name", dispatch.IMPLEMENTATIONS)
def test_override(name, monkeypatch):
    monkeypatch.setenv("WORLDMODELS_KERNEL", name)
    for operator in dispatch.OPERATORS:
        choice = dispatch.choose(operator)
        assert (choice.implementation, choice.reason) == (name, f"WORLDMODELS_KERNEL={name}")
        assert dispatch.load(operator).__module__ == f"worldmodels.kernels.{operator}.{name}"
    assert max_pool(torch.randn(1, 1, 2, 2)).shape == (1, 1, 1, 1)
    assert norm_silu(torch.randn(3, 4), torch.ones(4), 1e-4).shape == (3, 4)
    assert sigmoid_error(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.uint8)).shape == (2,)


def test_unknown_override_lists_the_names(monkeypatch):
    monkeypatch.setenv("WORLDMODELS_KERNEL", "tritn")
    with pytest.raises(
        ValueError, match=r"WORLDMODELS_KERNEL is one of reference, eager.* 'tritn'"
    ):
        dispatch.load("max_pool")


def test_importing_the_operators_chooses_nothing():
    """A wrong override breaks the first use, not the import."""
    code = "import worldmodels.kernels.norm_silu, worldmodels.kernels.dispatch"
    env = os.environ | {"WORLDMODELS_KERNEL": "nonsense"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
