"""`Mamba` is mamba-ssm's module: parameters, initial values and the published formulas."""

import importlib.util
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import kstest, uniform

from worldmodels.backbones.base import State
from worldmodels.backbones.configs import MambaOptions
from worldmodels.backbones.mamba import Mamba

SIZES = [
    (32, MambaOptions()),
    (5, MambaOptions(state=3, expand=3, conv=2)),
    (17, MambaOptions(state=1, expand=1, conv=6)),  # 17 > 16: delta has rank 2
    (1, MambaOptions(state=5)),
]
"""Widths and options."""


def shapes(width: int, options: MambaOptions) -> dict[str, tuple[int, ...]]:
    """The `state_dict` of `mamba_ssm.modules.mamba_simple.Mamba`."""
    inner, rank = options.expand * width, -(-width // 16)
    return {
        "A_log": (inner, options.state),
        "D": (inner,),
        "in_proj.weight": (2 * inner, width),
        "conv1d.weight": (inner, 1, options.conv),
        "conv1d.bias": (inner,),
        "x_proj.weight": (rank + 2 * options.state, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (width, inner),
    }


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_parameters_are_those_of_mamba_ssm(width, options):
    layer = Mamba(options, width)
    found = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert found == shapes(width, options)
    assert found.keys() == dict(layer.named_parameters()).keys()
    assert {value.dtype for value in layer.state_dict().values()} == {torch.float32}


def test_parameters_of_the_published_130m_layer():
    """Width 768 and the defaults, as in the checkpoint state-spaces/mamba-130m."""
    found = {k: tuple(v.shape) for k, v in Mamba(MambaOptions(), 768).state_dict().items()}
    assert found == {
        "A_log": (1536, 16),
        "D": (1536,),
        "in_proj.weight": (3072, 768),
        "conv1d.weight": (1536, 1, 4),
        "conv1d.bias": (1536,),
        "x_proj.weight": (80, 1536),
        "dt_proj.weight": (1536, 48),
        "dt_proj.bias": (1536,),
        "out_proj.weight": (768, 1536),
    }


def check_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """Uniform between two bounds, by Kolmogorov and Smirnov, and never outside."""
    x = values.detach().double().flatten().numpy()
    span = high - low
    assert low - 1e-4 * span <= x.min() < low + 0.1 * span
    assert high - 0.1 * span < x.max() <= high + 1e-4 * span
    assert kstest(x, uniform(low, span).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("width", "options"), [(64, MambaOptions()), (48, MambaOptions(state=7, expand=3, conv=3))]
)
def test_initial_values(width, options):
    """A = -1, ..., -N in every channel; steps log-uniform in [0.001, 0.1]; PyTorch's defaults."""
    layer = Mamba(options, width)
    inner, rank = options.expand * width, math.ceil(width / 16)
    rates = torch.tensor([float(n) for n in range(1, options.state + 1)])
    assert torch.equal(layer.A_log, rates.log().expand(inner, -1))
    assert torch.equal(layer.D, torch.ones(inner))
    steps = torch.nn.functional.softplus(layer.dt_proj.bias.detach().double())
    check_uniform(steps.log10(), -3.0, -1.0)
    check_uniform(layer.dt_proj.weight, -(rank**-0.5), rank**-0.5)
    for weight, fan_in in (
        (layer.in_proj.weight, width),
        (layer.x_proj.weight, inner),
        (layer.out_proj.weight, inner),
        (layer.conv1d.weight, options.conv),
        (layer.conv1d.bias, options.conv),
    ):
        assert weight is not None
        check_uniform(weight, -(fan_in**-0.5), fan_in**-0.5)


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def published(p, u, state, reset):
    """h, and the convolution's inputs and the SSM's states after every step, in plain loops.

    `p` has mamba-ssm's names; u [B, T, D]; `state` has conv [B, W - 1, I] and ssm [B, I, N]; reset
    [B, T].
    """
    conv, ssm = state["conv"].numpy(), state["ssm"].numpy()
    (batch, length, _), (inner, size) = u.shape, p["A_log"].shape
    rank, width = p["dt_proj.weight"].shape[1], p["conv1d.weight"].shape[2]
    h = np.zeros(u.shape)
    convs, ssms = np.zeros((batch, length, *conv.shape[1:])), np.zeros((batch, length, inner, size))
    for b in range(batch):
        window, now = list(conv[b]), ssm[b].copy()
        for t in range(length):
            if reset[b, t]:
                window, now = [np.zeros(inner)] * (width - 1), np.zeros((inner, size))
            both = p["in_proj.weight"] @ u[b, t]
            raw, z = both[:inner], both[inner:]
            seen = [*window, raw]
            x = p["conv1d.bias"].copy()
            for k in range(width):
                x += p["conv1d.weight"][:, 0, k] * seen[k]
            x = silu(x)
            dbc = p["x_proj.weight"] @ x
            delta = softplus(p["dt_proj.weight"] @ dbc[:rank] + p["dt_proj.bias"])
            into, out_of = dbc[rank : rank + size], dbc[rank + size :]
            y = np.zeros(inner)
            for i in range(inner):
                for n in range(size):
                    decay = math.exp(-delta[i] * math.exp(p["A_log"][i, n]))
                    now[i, n] = decay * now[i, n] + delta[i] * into[n] * x[i]
                    y[i] += out_of[n] * now[i, n]
                y[i] += p["D"][i] * x[i]
            h[b, t] = p["out_proj.weight"] @ (y * silu(z))
            window = seen[1:]
            convs[b, t], ssms[b, t] = np.stack(window), now
    return h, convs, ssms


def loaded(width, options):
    """A layer in float64 with random parameters, and these by mamba-ssm's names."""
    given = {
        name: torch.randn(*size).double() / size[-1] ** (0.5 if len(size) > 1 else 0)
        for name, size in shapes(width, options).items()
    }
    layer = Mamba(options, width).double()
    layer.load_state_dict(given, strict=True)
    return layer, {name: value.numpy() for name, value in given.items()}


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_outputs_from_nothing_as_mamba_ssm_gives_them(width, options):
    layer, p = loaded(width, options)
    u = torch.randn(2, 9, width, dtype=torch.float64)
    state = layer.initial(2).map(torch.Tensor.double)
    none = torch.zeros(2, 9, dtype=torch.bool)
    h, last, emitted = layer.sequence(u, state, none)
    expected, convs, ssms = published(p, u.numpy(), state, none.numpy())
    close(h, expected)
    close(last["conv"], convs[:, -1])
    close(last["ssm"], ssms[:, -1])
    assert emitted is None


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_outputs_and_states_with_resets_from_any_state(width, options):
    """By the whole window, by pairs (b, t) and by single steps."""
    layer, p = loaded(width, options)
    batch, length = 3, 8
    u = torch.randn(batch, length, width, dtype=torch.float64)
    state = layer.initial(batch).map(lambda leaf: torch.randn_like(leaf).double())
    reset = torch.zeros(batch, length, dtype=torch.bool)
    reset[0, 0] = reset[1, 3] = reset[1, 4] = reset[1, 7] = True
    expected, convs, ssms = published(p, u.numpy(), state, reset.numpy())

    h, last, emitted = layer.sequence(u, state, reset, "all")
    close(h, expected)
    close(last["conv"], convs[:, -1])
    close(last["ssm"], ssms[:, -1])
    assert emitted is not None
    close(emitted["conv"], convs.reshape(-1, *convs.shape[2:]))
    close(emitted["ssm"], ssms.reshape(-1, *ssms.shape[2:]))

    pairs = torch.tensor([[2, 1], [1, 3], [1, 6], [0, 0], [1, 3]])
    at = tuple(pairs.T.numpy())
    _, _, emitted = layer.sequence(u, state, reset, pairs)
    assert emitted is not None
    close(emitted["conv"], convs[at])
    close(emitted["ssm"], ssms[at])

    for t in range(length):
        h, state = layer.step(u[:, t], state, reset[:, t])
        close(h, expected[:, t])
        close(state["conv"], convs[:, t])
        close(state["ssm"], ssms[:, t])


def test_other_names_do_not_load():
    layer = Mamba(MambaOptions(), 8)
    given = layer.state_dict()
    given["dt_bias"] = given.pop("dt_proj.bias")
    with pytest.raises(RuntimeError, match=r"dt_proj\.bias"):
        layer.load_state_dict(given)


@pytest.mark.parametrize(
    "options", [MambaOptions(state=0), MambaOptions(expand=0), MambaOptions(conv=1)]
)
def test_sizes_that_are_too_small(options):
    with pytest.raises(ValueError, match=r"is [01], below [12]"):
        Mamba(options, 8)


def have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture(params=["references", pytest.param("kernels", marks=pytest.mark.gpu)])
def theirs(request, monkeypatch):
    """mamba-ssm's `Mamba` and the device that it runs on.

    With "references", on the CPU by the plain functions that mamba-ssm brings along.
    """
    if have("mamba_ssm") and not have("selective_scan_cuda"):  # installed, but not compiled
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
    pytest.importorskip("mamba_ssm", reason="needs the extra worldmodels-rl[mamba-ssm]")
    module = importlib.import_module("mamba_ssm.modules.mamba_simple")
    if request.param == "kernels":
        if not torch.cuda.is_available() or not hasattr(sys.modules["selective_scan_cuda"], "fwd"):
            pytest.skip("mamba-ssm's kernels need CUDA and a compiler at its installation")
        return module.Mamba, "cuda"
    operators = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    monkeypatch.setattr(module, "selective_scan_fn", operators.selective_scan_ref)
    for name in ("causal_conv1d_fn", "causal_conv1d_update", "selective_state_update"):
        monkeypatch.setattr(module, name, None)  # there is plain code beside each
    return module.Mamba, "cpu"


def pair(theirs, width, options):
    """mamba-ssm's module with random parameters and our layer with its `state_dict`."""
    build, device = theirs
    sizes = {"d_state": options.state, "expand": options.expand, "d_conv": options.conv}
    module = build(width, **sizes).to(device)
    layer = Mamba(options, width).to(device)
    for name in ("A_log", "D"):
        torch.nn.init.uniform_(getattr(module, name), -1, 1)
    layer.load_state_dict(module.state_dict(), strict=True)
    return module, layer, device


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_mamba_ssm_has_these_parameters(theirs, width, options):
    build, _ = theirs
    module = build(width, d_state=options.state, expand=options.expand, d_conv=options.conv)
    found = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert found == shapes(width, options)


def test_mamba_ssm_draws_the_same_initial_values(theirs):
    module, layer = theirs[0](64, d_state=7, expand=3), Mamba(MambaOptions(state=7, expand=3), 64)
    for name, value in module.named_parameters():
        own, value = layer.get_parameter(name).detach(), value.detach()
        if name in ("A_log", "D"):
            assert torch.equal(own, value)
        else:
            assert kstest(own.flatten(), value.flatten()).pvalue > 1e-3, name


@pytest.mark.parametrize(("width", "options"), SIZES[:3])
def test_outputs_and_gradients_are_those_of_mamba_ssm(theirs, width, options):
    module, layer, device = pair(theirs, width, options)
    u = torch.randn(2, 12, width, device=device, requires_grad=True)
    v = u.detach().clone().requires_grad_()
    h, *_ = layer.sequence(u, layer.initial(2), u.new_zeros(2, 12, dtype=torch.bool))
    expected = module(v)
    torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(h)
    (h * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(u.grad, v.grad, rtol=1e-3, atol=1e-4)
    for name, value in module.named_parameters():
        own = layer.get_parameter(name).grad
        torch.testing.assert_close(own, value.grad, rtol=1e-3, atol=1e-4, msg=f"gradient of {name}")


@pytest.mark.parametrize(("width", "options"), SIZES[:3])
@torch.no_grad()
def test_steps_from_any_state_are_those_of_mamba_ssm(theirs, width, options):
    """Its window has a column more, the oldest, which a step drops before it reads."""
    module, layer, device = pair(theirs, width, options)
    state = State({k: torch.randn_like(leaf) for k, leaf in layer.initial(3).items()})
    conv, ssm = module.allocate_inference_cache(3, 6)
    conv[:, :, 1:], ssm[:] = state["conv"].transpose(1, 2), state["ssm"]
    for _ in range(6):
        u = torch.randn(3, width, device=device)
        h, state = layer.step(u, state, None)
        other, conv, ssm = module.step(u.unsqueeze(1), conv, ssm)
        torch.testing.assert_close(h, other.squeeze(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state["conv"], conv[:, :, 1:].transpose(1, 2))
        torch.testing.assert_close(state["ssm"], ssm, rtol=1e-4, atol=1e-5)
