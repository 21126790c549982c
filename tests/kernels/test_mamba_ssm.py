"""The adapters to mamba-ssm and causal-conv1d: what they pass on and what they refuse.

The libraries need a GPU. Stand-ins with their signatures and layouts take their place.
"""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels import causal_conv as conv_package
from worldmodels.kernels import libraries
from worldmodels.kernels import selective_scan as scan_package
from worldmodels.kernels import ssd as ssd_package

LIBRARIES = {
    "selective_scan": "mamba_ssm.ops.selective_scan_interface",
    "ssd": "mamba_ssm.ops.triton.ssd_combined",
    "causal_conv": "causal_conv1d",
}
CALLS: dict[str, Any] = {
    "selective_scan": scan_package.selective_scan,
    "ssd": ssd_package.ssd,
    "causal_conv": conv_package.causal_conv,
}


def selective_scan_fn(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
):
    """Streams [B, I, T], the parameters in float32."""
    assert return_last_state
    assert {x.dtype for x in (A, D, delta_bias) if x is not None} == {torch.float32}
    assert {x.dtype for x in (u, delta, B, C, z) if x is not None} == {u.dtype}
    u, delta, B, C, z = (None if x is None else x.mT for x in (u, delta, B, C, z))
    y, last, _ = CALLS["selective_scan"](
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, implementation="reference"
    )
    return y.mT, last


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    z=None,
    dt_bias=None,
    initial_states=None,
    seq_idx=None,
    cu_seqlens=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    return_varlen_states=False,
):
    """What is before the first step has the sequence number 0; dt is kept within its limits."""
    assert return_final_states
    assert not return_varlen_states
    assert cu_seqlens is None
    dt = dt if dt_bias is None else dt + dt_bias
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    reset = None
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        reset = F.pad(seq_idx, (1, 0)).diff(dim=1) != 0
    call = {"reset": reset, "initial_state": initial_states, "implementation": "reference"}
    y, last, _ = CALLS["ssd"](x, dt, A, B, C, D, z, chunk=chunk_size, **call)
    return y, last


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """x [B, D, T] and windows [B, D, W-1], neighbouring channels next to each other in memory."""
    assert not return_final_states
    assert final_states_out is None
    assert x.stride(1) == 1
    assert bias is None or bias.dtype == weight.dtype
    reset = None
    if seq_idx is not None:
        assert initial_states is None
        assert seq_idx.dtype == torch.int32
        reset = F.pad(seq_idx, (1, 0), value=-1).diff(dim=1) != 0
    if initial_states is not None:
        assert initial_states.stride(1) == 1
        assert initial_states.dtype == x.dtype
        initial_states = initial_states.mT
    call = {"reset": reset, "initial_window": initial_states, "implementation": "reference"}
    y, _ = CALLS["causal_conv"](x.mT, weight, bias, activation, **call)
    return y.mT


STAND_INS = {
    "selective_scan": SimpleNamespace(selective_scan_fn=selective_scan_fn),
    "ssd": SimpleNamespace(mamba_chunk_scan_combined=mamba_chunk_scan_combined),
    "causal_conv": SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn),
}


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Adapters that call the stand-ins and refuse nothing."""
    for operator, library in LIBRARIES.items():
        monkeypatch.setitem(sys.modules, library, STAND_INS[operator])
    monkeypatch.setattr(libraries, "refuse", lambda *_: None)


def make(operator: str, draw, length: int = 7) -> dict[str, Tensor]:
    """Every input but the flags."""
    batch, width, size = 2, 8, 3
    if operator == "selective_scan":
        return {
            "u": draw(batch, length, width),
            "delta": draw(batch, length, width),
            "A": -draw(width, size).abs(),
            "B": draw(batch, length, size),
            "C": draw(batch, length, size),
            "D": draw(width),
            "z": draw(batch, length, width),
            "delta_bias": draw(width),
        }
    if operator == "ssd":
        return {
            "x": draw(batch, length, 4, width),
            "dt": draw(batch, length, 4),
            "A": -draw(4).abs(),
            "B": draw(batch, length, 2, size),
            "C": draw(batch, length, 2, size),
            "D": draw(4),
            "z": draw(batch, length, 4, width),
            "dt_bias": draw(4),
            "initial_state": draw(batch, 4, width, size),
        }
    return {
        "x": draw(batch, length, width),
        "weight": draw(width, 4),
        "bias": draw(width),
        "initial_window": draw(batch, 3, width),
    }


def resets(length: int) -> Tensor:
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[0, 0] = reset[1, length // 2] = reset[1, -1] = True
    return reset


def check(operator: str, inputs: dict[str, Tensor], parts: slice, **call: Any) -> None:
    """Results, and the gradients of those in `parts`, are those of the reference."""
    found = {}
    for name in ("mamba_ssm", "reference"):
        own = {k: x.detach().requires_grad_() for k, x in inputs.items()}
        results = CALLS[operator](**own, **call, implementation=name)
        results = [x for x in results if x is not None]
        weights = [torch.linspace(-1, 1, x.numel()).view(x.shape).to(x) for x in results]
        chosen, leaves = results[parts], list(own.values())
        gradients = torch.autograd.grad(
            chosen, leaves, weights[parts], allow_unused=True, materialize_grads=True
        )
        found[name] = [*results, *gradients]
    for a, b in zip(found["mamba_ssm"], found["reference"], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("softplus", [True, False])
def test_selective_scan(draw, softplus):
    inputs = {name: x.float() for name, x in make("selective_scan", draw).items()}
    check("selective_scan", inputs, slice(1), delta_softplus=softplus)
    for name in ("D", "z", "delta_bias"):
        del inputs[name]
    check("selective_scan", inputs, slice(1), delta_softplus=softplus)


@pytest.mark.usefixtures("on_the_cpu")
def test_the_last_state_of_the_scan_has_no_gradient(draw):
    inputs = {k: x.float().requires_grad_() for k, x in make("selective_scan", draw).items()}
    y, last, _ = CALLS["selective_scan"](**inputs, implementation="mamba_ssm")
    assert y.requires_grad
    assert not last.requires_grad


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("with_reset", [True, False])
def test_ssd(draw, softplus, with_reset):
    inputs = {name: x.float() for name, x in make("ssd", draw).items()}
    assert (inputs["dt"] < 0).any()
    reset = resets(7) if with_reset else None
    check("ssd", inputs, slice(2), dt_softplus=softplus, reset=reset, chunk=16)
    for name in ("D", "z", "dt_bias", "initial_state"):
        del inputs[name]
    check("ssd", inputs, slice(2), dt_softplus=softplus, reset=reset, chunk=16)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("given", ["initial_window", "reset", "neither"])
def test_causal_conv(draw, given, length):
    inputs = {name: x.float() for name, x in make("causal_conv", draw, length).items()}
    if given != "initial_window":
        del inputs["initial_window"]
    reset = resets(length) if given == "reset" else None
    check("causal_conv", inputs, slice(2), reset=reset, activation="silu")
    del inputs["bias"]
    check("causal_conv", inputs, slice(2), reset=reset, activation=None)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("operator", LIBRARIES)
def test_mixed_dtypes(operator, draw):
    """The first input decides; states and windows are float32."""
    inputs = {name: x.float() for name, x in make(operator, draw).items()}
    first = next(iter(inputs))
    inputs[first] = inputs[first].bfloat16()
    y, last, *_ = CALLS[operator](**inputs, implementation="mamba_ssm")
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32


@pytest.mark.parametrize(
    ("operator", "change", "reason"),
    [
        ("selective_scan", {}, "runs on CUDA alone"),
        ("selective_scan", {"reset": resets(7)}, "takes no reset"),
        ("selective_scan", {"initial_state": torch.zeros(2, 8, 3)}, "takes no initial_state"),
        ("selective_scan", {"emit": "all"}, "takes no emit"),
        ("selective_scan", {"u": torch.zeros(2, 7, 8).double()}, r"takes no torch\.float64"),
        (
            "selective_scan",
            {"A": torch.zeros(8, 257), "B": torch.zeros(2, 7, 257), "C": torch.zeros(2, 7, 257)},
            "has at most 256 states",
        ),
        ("ssd", {}, "runs on CUDA alone"),
        ("ssd", {"emit": torch.zeros(1, 2, dtype=torch.int64)}, "takes no emit"),
        ("ssd", {"A": torch.zeros(2, 7, 4)}, "takes no A with a time axis"),
        ("ssd", {"chunk": 48}, "takes no chunk but powers of two from 16"),
        ("ssd", {"chunk": 8}, "takes no chunk but powers of two from 16"),
        ("ssd", {"x": torch.zeros(2, 7, 4, 8).double()}, r"takes no torch\.float64"),
        ("causal_conv", {}, "runs on CUDA alone"),
        ("causal_conv", {"reset": resets(7)}, "takes no initial_window together with reset"),
        ("causal_conv", {"x": torch.zeros(2, 7, 8).double()}, r"takes no torch\.float64"),
        (
            "causal_conv",
            {"weight": torch.zeros(8, 5), "initial_window": None},
            "has 2 to 4 taps",
        ),
        (
            "causal_conv",
            {
                "x": torch.zeros(2, 7, 9),
                "weight": torch.zeros(9, 4),
                "bias": None,
                "initial_window": None,
            },
            "has a multiple of 8 channels",
        ),
    ],
)
def test_what_is_refused(operator, change, reason, draw):
    inputs: dict[str, Any] = {name: x.float() for name, x in make(operator, draw).items()}
    sentence = f"^{operator}: mamba_ssm .*{reason}.*; choose another implementation$"
    with pytest.raises(ValueError, match=sentence):
        CALLS[operator](**(inputs | change), implementation="mamba_ssm")


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("operator", LIBRARIES)
def test_a_missing_library_names_its_install(operator, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[operator], None)
    inputs = {name: x.float() for name, x in make(operator, draw).items()}
    with pytest.raises(ImportError, match=r"pip install 'worldmodels-rl\[mamba-ssm\]'"):
        CALLS[operator](**inputs, implementation="mamba_ssm")
