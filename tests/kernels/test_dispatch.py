"""Which implementation runs, and why."""

import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from worldmodels.kernels import dispatch, self_test
from worldmodels.kernels.arguments import learned, leaves
from worldmodels.kernels.max_pool import max_pool
from worldmodels.kernels.norm_silu import norm_silu
from worldmodels.kernels.selective_scan import selective_scan
from worldmodels.kernels.sigmoid_error import sigmoid_error

X = torch.zeros(1)


@pytest.fixture(autouse=True)
def _chosen_afresh(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    dispatch.prefer("auto")
    yield
    dispatch.prefer("auto")


@pytest.fixture
def stand_in(monkeypatch):
    """Make a function the Triton kernel of an operator, and a CPU a place where it could run."""

    def place(operator: str, function) -> None:
        module = ModuleType("stand-in")
        setattr(module, operator, function)
        name = f"worldmodels.kernels.{operator}.triton"
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(dispatch, "interpreting", lambda: True)
        dispatch.prefer("triton")

    return place


def module_of(operator: str, implementation: str | None = None, x: torch.Tensor = X) -> str:
    return dispatch.load(operator, x, implementation).__module__


def test_default():
    for operator in dispatch.OPERATORS:
        choice = dispatch.choose(operator, "cpu")
        assert (choice.operator, choice.implementation) == (operator, "eager")
        assert choice.reason.startswith("default")
        assert module_of(operator) == f"worldmodels.kernels.{operator}.eager"


@pytest.mark.parametrize("name", ["reference", "eager"])
def test_override(name, monkeypatch):
    monkeypatch.setenv("WORLDMODELS_KERNEL", name)
    for operator in dispatch.OPERATORS:
        choice = dispatch.choose(operator, "cpu")
        assert (choice.implementation, choice.reason) == (name, f"WORLDMODELS_KERNEL={name}")
        assert module_of(operator) == f"worldmodels.kernels.{operator}.{name}"
    assert max_pool(torch.randn(1, 1, 2, 2)).shape == (1, 1, 1, 1)
    assert norm_silu(torch.randn(3, 4), torch.ones(4), 1e-4).shape == (3, 4)
    assert sigmoid_error(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.uint8)).shape == (2,)


def test_the_variable_goes_before_the_option(monkeypatch):
    dispatch.prefer("reference")
    assert dispatch.choose("ssd", "cpu") == dispatch.Choice("ssd", "reference", "kernel=reference")
    monkeypatch.setenv("WORLDMODELS_KERNEL", "eager")
    dispatch.forget()
    assert dispatch.choose("ssd", "cpu") == dispatch.Choice(
        "ssd", "eager", "WORLDMODELS_KERNEL=eager"
    )


def test_an_operator_without_the_implementation_says_so(monkeypatch):
    monkeypatch.setattr(dispatch, "interpreting", lambda: True)
    dispatch.prefer("triton")
    choice = dispatch.choose("max_pool", "cpu")
    assert choice.implementation == "eager"
    assert choice.reason == "kernel=triton, which this operator does not have"
    with pytest.raises(ValueError, match="max_pool: implementation is one of reference, eager"):
        dispatch.load("max_pool", X, "triton")


def test_unknown_names_list_the_known_ones(monkeypatch):
    with pytest.raises(ValueError, match=r"kernel is auto or reference, eager, .* not 'tritn'"):
        dispatch.prefer("tritn")
    monkeypatch.setenv("WORLDMODELS_KERNEL", "tritn")
    with pytest.raises(
        ValueError, match=r"WORLDMODELS_KERNEL is one of reference, eager.* 'tritn'"
    ):
        dispatch.load("max_pool", X)


@pytest.mark.parametrize("name", ["triton", "mamba_ssm"])
def test_what_needs_a_gpu_is_refused_without_one(name, monkeypatch):
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    monkeypatch.setattr(dispatch, "find_spec", lambda name: object())
    dispatch.prefer(name)
    with pytest.raises(ValueError, match=f"kernel={name} needs a CUDA GPU, and this runs on cpu"):
        dispatch.choose("ssd", "cpu")


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    dispatch.prefer("mamba_ssm")
    with pytest.raises(ValueError, match=r"pip install 'worldmodels-rl\[mamba-ssm\]'"):
        dispatch.choose("ssd", "cuda")


@pytest.mark.parametrize("operator", dispatch.OVER_TIME)
def test_a_right_kernel_is_chosen(operator, stand_in):
    right = dispatch.load(operator, X, "eager")
    stand_in(operator, right)
    choice = dispatch.choose(operator, "cpu")
    assert choice == dispatch.Choice(operator, "triton", "kernel=triton; agrees with the reference")
    assert dispatch.load(operator, X) is right
    assert module_of(operator, x=X.double()) == f"worldmodels.kernels.{operator}.eager"


def drop_reset(function):
    """The function, deaf to resets."""
    return lambda reset, **others: function(reset=None, **others)


@pytest.mark.parametrize("operator", dispatch.OVER_TIME)
def test_a_wrong_kernel_is_turned_down_loudly(operator, stand_in):
    stand_in(operator, drop_reset(dispatch.load(operator, X, "eager")))
    with pytest.warns(UserWarning, match=f"{operator}: eager runs in place of triton, result 0"):
        choice = dispatch.choose(operator, "cpu")
    assert choice.implementation == "eager"
    assert choice.reason.startswith("triton was turned down: result 0 differs from the reference")
    assert module_of(operator) == f"worldmodels.kernels.{operator}.eager"


@pytest.mark.parametrize("operator", dispatch.OVER_TIME)
def test_every_gradient_is_looked_at(operator):
    """One wrong gradient is named, whichever it is."""
    right = dispatch.load(operator, X, "eager")
    names = leaves(learned(self_test.draw_arguments(operator)))
    assert len(names) == {"selective_scan": 9, "ssd": 9, "causal_conv": 4}[operator]
    for name in names:

        def wrong(name=name, **arguments):
            x = arguments.pop(name)
            skewed = x + 0.01 * (x - x.detach())  # the same value, a gradient 1 % too large
            return right(**arguments, **{name: skewed})

        found = self_test.fault(operator, wrong, "cpu")
        assert found is not None, name
        assert found.startswith(f"the gradient of {name} differs")


def test_a_kernel_that_raises_is_turned_down(stand_in):
    def broken(**arguments):
        raise RuntimeError("no image for this device\nmore")

    stand_in("ssd", broken)
    with pytest.warns(UserWarning, match="it raised RuntimeError: no image for this device$"):
        assert dispatch.choose("ssd", "cpu").implementation == "eager"


def test_an_import_that_fails_is_turned_down(stand_in, monkeypatch):
    stand_in("ssd", None)
    monkeypatch.setitem(sys.modules, "worldmodels.kernels.ssd.triton", None)
    with pytest.warns(UserWarning, match="eager runs in place of triton, it cannot be imported"):
        assert dispatch.choose("ssd", "cpu").implementation == "eager"


@pytest.mark.parametrize("operator", dispatch.OVER_TIME)
def test_kernels_refuse_float64(operator):
    pytest.importorskip("triton")
    arguments = self_test.draw_arguments(operator)
    wide = {k: x.double() if _floating(x) else x for k, x in arguments.items()}
    with pytest.raises(ValueError, match=r"float64.*eager"):
        dispatch.load(operator, X, "triton")(**wide)


def _floating(x) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def test_a_nan_is_a_fault():
    def wrong(**arguments):
        y, last = dispatch.load("causal_conv", X, "eager")(**arguments)
        return y, last * float("nan")

    assert "nan" in (self_test.fault("causal_conv", wrong, "cpu") or "")


def test_the_choice_is_no_part_of_a_graph():
    """torch.compile sees the function that was chosen, not how."""
    inputs = [torch.randn(2, 3, 5), torch.randn(5, 2), torch.randn(2, 3, 2)]

    def call(u, A, B):
        return selective_scan(u, u, A, B, B, implementation="reference")[0]

    found = torch.compile(call, backend="eager", fullgraph=True)(*inputs)
    assert torch.equal(found, call(*inputs))


def test_importing_the_operators_chooses_nothing():
    """A wrong override breaks the first use, not the import."""
    code = "import worldmodels.kernels.norm_silu, worldmodels.kernels.dispatch"
    env = os.environ | {"WORLDMODELS_KERNEL": "nonsense"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
