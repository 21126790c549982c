"""The adapter to flash-linear-attention: its map of arguments, and what it refuses.

The library needs a GPU. A stand-in with its signature, layout and default scale takes its place.
"""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodels.kernels import libraries
from worldmodels.kernels.ssd import flash_linear_attention as adapter
from worldmodels.kernels.ssd.reference import ssd as reference


def simple_gla(q, k, v, g=None, scale=None, initial_state=None, output_final_state=False):
    """q, k [B, T, H, K]; v [B, T, H, V]; g [B, T, H] -> o as v, the state [B, H, K, V]."""
    assert output_final_state
    assert q.shape == k.shape
    assert g is not None
    assert q.shape[:3] == v.shape[:3] == g.shape
    assert {x.dtype for x in (k, v)} == {q.dtype}
    assert g.dtype == torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1], dtype=torch.float32)
    if initial_state is not None:
        assert initial_state.shape == state.shape
        state = initial_state
    outputs = []
    for t in range(q.shape[1]):
        new = torch.einsum("bhk,bhv->bhkv", k[:, t].float(), v[:, t].float())
        state = g[:, t, :, None, None].exp() * state + new
        outputs.append(torch.einsum("bhk,bhkv->bhv", scale * q[:, t].float(), state))
    return torch.stack(outputs, 1).to(v.dtype), state


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The names of the kernels that were called; nothing is refused."""
    names: list[str] = []

    def kernel(name: str):
        def call(*args: Any, **kwargs: Any):
            names.append(name)
            return simple_gla(*args, **kwargs)

        return call

    kernels = {x: kernel(x) for x in ("chunk_simple_gla", "fused_recurrent_simple_gla")}
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", SimpleNamespace(**kernels))
    monkeypatch.setattr(libraries, "refuse", lambda *_: None)
    return names


def make(draw, length: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    streams = {
        "x": draw(2, length, 4, 3),
        "B": draw(2, length, 2, 5),
        "C": draw(2, length, 2, 5),
        "z": draw(2, length, 4, 3),
    }
    rest = {
        "dt": draw(2, length, 4),
        "A": -draw(4).abs(),
        "D": draw(4),
        "dt_bias": draw(4),
        "initial_state": draw(2, 4, 3, 5),
    }
    inputs = {k: v.to(dtype) for k, v in streams.items()} | {k: v.float() for k, v in rest.items()}
    return {k: v.requires_grad_() for k, v in inputs.items()}


def results(function: Any, inputs: dict[str, Tensor], softplus: bool) -> list[Tensor]:
    """Results and every gradient."""
    optional: dict[str, Any] = dict.fromkeys(("D", "z", "dt_bias", "initial_state"))
    call = optional | inputs | {"dt_softplus": softplus, "chunk": 64, "reset": None, "emit": None}
    y, last, emitted = function(**call)
    assert emitted is None
    weights = [torch.linspace(-1, 1, x.numel()).view(x.shape).to(x) for x in (y, last)]
    return [y, last, *torch.autograd.grad([y, last], list(inputs.values()), weights)]


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("variant", ["all", "bare", "timed A", "wide D"])
def test_equals_the_reference(calls, draw, length, variant):
    inputs = make(draw, length)
    if variant == "bare":
        inputs = {k: inputs[k] for k in ("x", "dt", "A", "B", "C")}
    if variant == "timed A":
        inputs["A"] = (-draw(2, length, 4).abs()).float().requires_grad_()
    if variant == "wide D":
        inputs["D"] = draw(4, 3).float().requires_grad_()
    found = results(adapter.ssd, inputs, variant != "bare")
    for a, b in zip(found, results(reference, inputs, variant != "bare"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert calls == ["fused_recurrent_simple_gla" if length == 1 else "chunk_simple_gla"]


@pytest.mark.usefixtures("calls")
def test_half_precision(draw):
    inputs = make(draw, 6, torch.bfloat16)
    found = results(adapter.ssd, inputs, True)
    assert [x.dtype for x in found[:2]] == [torch.bfloat16, torch.float32]
    for a, b in zip(found, results(reference, inputs, True), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=5e-2, atol=1e-1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "runs on CUDA alone"),
        ({"reset": torch.zeros(2, 6, dtype=torch.bool)}, "takes no reset"),
        ({"emit": "all"}, "takes no emit"),
        ({"x": torch.zeros(2, 6, 4, 3).double()}, r"takes no torch\.float64"),
    ],
)
def test_what_is_refused(draw, change, reason):
    call: dict[str, Any] = {"dt_softplus": True, "chunk": 64, "reset": None, "emit": None}
    sentence = f"^ssd: flash_linear_attention .*{reason}.*; choose another implementation$"
    with pytest.raises(ValueError, match=sentence):
        adapter.ssd(**(make(draw, 6) | call | change))


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("module", [None, SimpleNamespace()])
def test_a_missing_library_names_its_install(draw, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", module)
    with pytest.raises(ImportError, match=r"ssd: fla cannot be imported.*pip install fla-core"):
        results(adapter.ssd, make(draw, 6), True)
