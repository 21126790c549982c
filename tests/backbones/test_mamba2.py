"""`Mamba2` is mamba-ssm's module: parameters, initial values and the published formulas."""

import importlib.util
import math
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import kstest, uniform

from worldmodels.backbones.base import State
from worldmodels.backbones.configs import Mamba2Options
from worldmodels.backbones.mamba2 import Mamba2

SIZES = [
    (32, Mamba2Options()),
    (6, Mamba2Options(heads=6, state=3, groups=3, conv=2, chunk=4)),
    (5, Mamba2Options(heads=3, state=1, expand=3, conv=6, chunk=1)),
    (3, Mamba2Options(heads=1, state=5, expand=1, chunk=3)),
]
"""Widths and options."""


def shapes(width: int, options: Mamba2Options) -> dict[str, tuple[int, ...]]:
    """The `state_dict` of `mamba_ssm.modules.mamba2.Mamba2`."""
    inner, heads = options.expand * width, options.heads
    mixed = inner + 2 * options.groups * options.state
    return {
        "dt_bias": (heads,),
        "A_log": (heads,),
        "D": (heads,),
        "in_proj.weight": (inner + mixed + heads, width),
        "conv1d.weight": (mixed, 1, options.conv),
        "conv1d.bias": (mixed,),
        "norm.weight": (inner,),
        "out_proj.weight": (width, inner),
    }


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_parameters_are_those_of_mamba_ssm(width, options):
    layer = Mamba2(options, width)
    found = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert found == shapes(width, options)
    assert found.keys() == dict(layer.named_parameters()).keys()
    assert {value.dtype for value in layer.state_dict().values()} == {torch.float32}


def test_parameters_of_the_published_130m_layer():
    """Width 768, heads of 64 and N = 128, as in the checkpoint state-spaces/mamba2-130m."""
    layer = Mamba2(Mamba2Options(heads=24, state=128), 768)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "in_proj.weight": (3352, 768),
        "conv1d.weight": (1792, 1, 4),
        "conv1d.bias": (1792,),
        "norm.weight": (1536,),
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
    ("width", "options"),
    [
        (64, Mamba2Options(heads=128)),
        (48, Mamba2Options(heads=72, state=7, groups=2, expand=3, conv=3)),
    ],
)
def test_initial_values(width, options):
    """A uniform in [-16, -1], steps log-uniform in [0.001, 0.1]; PyTorch's defaults."""
    layer = Mamba2(options, width)
    inner = options.expand * width
    check_uniform(layer.A_log.exp(), 1.0, 16.0)
    steps = torch.nn.functional.softplus(layer.dt_bias.detach().double())
    check_uniform(steps.log10(), -3.0, -1.0)
    assert torch.equal(layer.D, torch.ones(options.heads))
    assert torch.equal(layer.norm.weight, torch.ones(inner))
    for weight, fan_in in (
        (layer.in_proj.weight, width),
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


def published(p, options, u, state, reset):
    """h, and the convolution's inputs and the SSM's states after every step, in plain loops.

    `p` has mamba-ssm's names; u [B, T, D]; `state` has conv [B, W - 1, I + 2 G N] and ssm
    [B, H, P, N]; reset [B, T].
    """
    conv, ssm = state["conv"].numpy(), state["ssm"].numpy()
    (batch, length, _), (_, heads, size, states) = u.shape, ssm.shape
    inner, width, groups = heads * size, p["conv1d.weight"].shape[2], options.groups
    h = np.zeros(u.shape)
    convs, ssms = (np.zeros((batch, length, *leaf.shape[1:])) for leaf in (conv, ssm))
    for b in range(batch):
        window, now = list(conv[b]), ssm[b].copy()
        for t in range(length):
            if reset[b, t]:
                window, now = [np.zeros_like(row) for row in window], np.zeros_like(now)
            every = p["in_proj.weight"] @ u[b, t]
            z, raw, dt = every[:inner], every[inner:-heads], every[-heads:]
            seen = [*window, raw]
            mixed = p["conv1d.bias"].copy()
            for k in range(width):
                mixed += p["conv1d.weight"][:, 0, k] * seen[k]
            mixed = silu(mixed)
            x = mixed[:inner].reshape(heads, size)
            into = mixed[inner : inner + groups * states].reshape(groups, states)
            out_of = mixed[inner + groups * states :].reshape(groups, states)
            y = np.zeros((heads, size))
            for head in range(heads):
                group = head // (heads // groups)
                delta = softplus(dt[head] + p["dt_bias"][head])
                decay = math.exp(-delta * math.exp(p["A_log"][head]))
                for i in range(size):
                    for n in range(states):
                        add = delta * x[head, i] * into[group, n]
                        now[head, i, n] = decay * now[head, i, n] + add
                        y[head, i] += out_of[group, n] * now[head, i, n]
                    y[head, i] += p["D"][head] * x[head, i]
            gated = (y.reshape(-1) * silu(z)).reshape(groups, -1)
            for group in range(groups):
                gated[group] /= math.sqrt(np.mean(gated[group] ** 2) + 1e-5)
            h[b, t] = p["out_proj.weight"] @ (gated.reshape(-1) * p["norm.weight"])
            window = seen[1:]
            convs[b, t], ssms[b, t] = np.stack(window), now
    return h, convs, ssms


def loaded(width, options):
    """A layer in float64 with random parameters, and these by mamba-ssm's names."""
    given = {
        name: torch.randn(*size).double() / size[-1] ** (0.5 if len(size) > 1 else 0)
        for name, size in shapes(width, options).items()
    }
    layer = Mamba2(options, width).double()
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
    expected, convs, ssms = published(p, options, u.numpy(), state, none.numpy())
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
    expected, convs, ssms = published(p, options, u.numpy(), state, reset.numpy())

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


def test_the_norm_is_after_the_gate_and_within_groups():
    """Two groups; scaling the gated values of one leaves the other, and the scale is gone."""
    norm = Mamba2(Mamba2Options(groups=2), 4).norm.double()
    x, z = torch.randn(2, 3, 8, dtype=torch.float64)
    scaled = torch.cat([x[:, :4] * 1e6, x[:, 4:]], 1)
    torch.testing.assert_close(norm(scaled, z)[:, 4:], norm(x, z)[:, 4:], rtol=0, atol=0)
    gated = norm(scaled, z)[:, :4]
    torch.testing.assert_close(gated.square().mean(1), torch.ones(3).double())
    torch.testing.assert_close(norm(x * 0, z), x * 0)


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_the_chunk_changes_nothing(chunk):
    width, options = SIZES[1]
    layer, _ = loaded(width, options)
    other = Mamba2(replace(options, chunk=chunk), width).double()
    other.load_state_dict(layer.state_dict())
    u, reset = torch.randn(2, 11, width).double(), torch.rand(2, 11) < 0.2
    state = layer.initial(2).map(torch.Tensor.double)
    expected, last, _ = layer.sequence(u, state, reset)
    h, again, _ = other.sequence(u, state, reset)
    close(h, expected.detach().numpy())
    close(again["ssm"], last["ssm"].detach().numpy())


def test_other_names_do_not_load():
    layer = Mamba2(Mamba2Options(), 8)
    given = layer.state_dict()
    given["dt_proj.bias"] = given.pop("dt_bias")
    with pytest.raises(RuntimeError, match="dt_bias"):
        layer.load_state_dict(given)


@pytest.mark.parametrize("name", ["heads", "state", "groups", "expand", "chunk", "conv"])
def test_sizes_that_are_too_small(name):
    small = replace(Mamba2Options(), **{name: 1 if name == "conv" else 0})
    with pytest.raises(ValueError, match=r"is [01], below [12]"):
        Mamba2(small, 8)


def test_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="inner width 16 is no multiple of heads 3"):
        Mamba2(Mamba2Options(heads=3), 8)
    with pytest.raises(ValueError, match="heads 4 is no multiple of groups 3"):
        Mamba2(Mamba2Options(groups=3), 8)


def have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def scan_reference(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus, **none):
    """mamba-ssm's plain form of its `mamba_chunk_scan_combined`."""
    assert not any(none.values())
    scan = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").ssd_chunk_scan_combined_ref
    return scan(x, dt, A, B, C, chunk_size, D, z, dt_bias, dt_softplus)


@pytest.fixture(params=["references", pytest.param("kernels", marks=pytest.mark.gpu)])
def theirs(request, monkeypatch):
    """mamba-ssm's `Mamba2` as a function of (width, options), for one device.

    With "references", on the CPU by the plain functions that mamba-ssm brings along.
    """
    if have("mamba_ssm") and not have("selective_scan_cuda"):  # installed, but not compiled
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
    pytest.importorskip("mamba_ssm", reason="needs the extra worldmodels-rl[mamba-ssm]")
    module = importlib.import_module("mamba_ssm.modules.mamba2")
    if request.param == "kernels" and not torch.cuda.is_available():
        pytest.skip("mamba-ssm's kernels need CUDA")
    if request.param == "references":
        norms = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated")
        steps = importlib.import_module("mamba_ssm.ops.triton.selective_state_update")
        monkeypatch.setattr(norms, "rmsnorm_fn", norms.rms_norm_ref)
        monkeypatch.setattr(module, "mamba_chunk_scan_combined", scan_reference)
        monkeypatch.setattr(module, "selective_state_update", steps.selective_state_update_ref)
        for name in ("causal_conv1d_fn", "causal_conv1d_update"):
            monkeypatch.setattr(module, name, None)  # there is plain code beside each

    def build(width: int, options: Mamba2Options):
        return module.Mamba2(
            width,
            d_state=options.state,
            d_conv=options.conv,
            expand=options.expand,
            headdim=options.expand * width // options.heads,
            ngroups=options.groups,
            chunk_size=4 if request.param == "references" else 16,
            use_mem_eff_path=False,
            device="cpu" if request.param == "references" else "cuda",
        )

    return build


def pair(theirs, width, options):
    """mamba-ssm's module with random parameters and our layer with its `state_dict`."""
    module = theirs(width, options)
    for name in ("A_log", "D", "norm.weight"):
        torch.nn.init.uniform_(module.get_parameter(name), -1, 1)
    layer = Mamba2(options, width).to(module.D.device)
    layer.load_state_dict(module.state_dict(), strict=True)
    return module, layer, module.D.device


@pytest.mark.parametrize(("width", "options"), SIZES)
def test_mamba_ssm_has_these_parameters(theirs, width, options):
    module = theirs(width, options)
    found = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert found == shapes(width, options)


def test_mamba_ssm_draws_the_same_initial_values(theirs):
    options = Mamba2Options(heads=96, state=7, groups=2, expand=3)
    module, layer = theirs(64, options), Mamba2(options, 64)
    for name, value in module.named_parameters():
        own, value = layer.get_parameter(name).detach(), value.detach().cpu()
        if name in ("D", "norm.weight"):
            assert torch.equal(own, value)
        else:
            assert kstest(own.flatten(), value.flatten()).pvalue > 1e-3, name


@pytest.mark.parametrize(("width", "options"), SIZES)
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


@pytest.mark.parametrize(("width", "options"), SIZES)
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
