"""The scans against closed forms, against each other, and at the edges of their numbers."""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldmodels.kernels.causal_conv import causal_conv
from worldmodels.kernels.selective_scan import selective_scan
from worldmodels.kernels.ssd import ssd

implementations = pytest.mark.parametrize("implementation", ["reference", "eager"])
quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@implementations
def test_constant_inputs_give_a_geometric_sum(implementation):
    """h_t = a^(t+1) h_0 + d u b (1 + a + ... + a^t), with a = exp(d A)."""
    length, d, u, b, c, rate, start = 9, 0.3, 2.0, -1.5, 0.5, -0.7, 4.0
    a = torch.exp(torch.tensor(d * rate, dtype=torch.float64))
    powers = a ** torch.arange(1, length + 1)
    states = powers * start + d * u * b * (1 - powers) / (1 - a)
    full = torch.full((1, length, 1), 1.0, dtype=torch.float64)
    A, h = torch.full((1, 1), rate).double(), torch.full((1, 1, 1), start).double()
    y, last, emitted = selective_scan(
        full * u,
        full * d,
        A,
        full * b,
        full * c,
        initial_state=h,
        emit="all",
        implementation=implementation,
    )
    assert emitted is not None
    torch.testing.assert_close(y.flatten(), states * c)
    torch.testing.assert_close(emitted.flatten(), states)
    torch.testing.assert_close(last.flatten(), states[-1:])
    y, last, _ = ssd(
        full[..., None] * u,
        full * d,
        A[0],
        full[..., None] * b,
        full[..., None] * c,
        chunk=4,
        initial_state=h[..., None],
        implementation=implementation,
    )
    torch.testing.assert_close(y.flatten(), states * c)
    torch.testing.assert_close(last.flatten(), states[-1:])


@implementations
def test_the_scans_are_lower_triangular_matrices(implementation, draw):
    """y = W u with W_ts = sum_n C_tn exp(A_n (d_s+1 + ... + d_t)) d_s B_sn, no loop over time."""
    length, size = 11, 3
    u, d, A = draw(length), draw(length).abs(), -draw(size).abs()
    B, C = draw(length, size), draw(length, size)
    cuts = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0])
    time, segment = d.cumsum(0), cuts.cumsum(0)
    allowed = torch.ones(length, length).tril().bool() & (segment[:, None] == segment[None, :])
    decay = torch.exp(A * (time[:, None] - time[None, :])[..., None])
    W = torch.einsum("tn,tsn,sn->ts", C, decay, B) * d * allowed
    y, _, _ = selective_scan(
        u[None, :, None],
        d[None, :, None],
        A[None],
        B[None],
        C[None],
        reset=cuts[None].bool(),
        implementation=implementation,
    )
    torch.testing.assert_close(y.flatten(), W @ u)
    decay = torch.exp(A[0] * (time[:, None] - time[None, :]))
    W = (C @ B.T) * decay * d * allowed
    y, _, _ = ssd(
        u[None, :, None, None],
        d[None, :, None],
        A[:1],
        B[None, :, None],
        C[None, :, None],
        chunk=4,
        reset=cuts[None].bool(),
        implementation=implementation,
    )
    torch.testing.assert_close(y.flatten(), W @ u)


@implementations
def test_the_convolution_is_torchs(implementation, draw):
    x, weight, bias = draw(2, 9, 5), draw(5, 4), draw(5)
    expected = torch.nn.functional.conv1d(x.mT, weight[:, None], bias, padding=3, groups=5)
    y, last = causal_conv(x, weight, bias, implementation=implementation)
    torch.testing.assert_close(y, expected[..., :9].mT)
    torch.testing.assert_close(last, x[:, -3:])


@implementations
def test_one_decay_per_head_is_the_other_scan(implementation, draw):
    """Mamba-1 with A constant over a head and one delta for it is Mamba-2."""
    batch, length, heads, width, size = 2, 7, 2, 3, 4
    x, dt, z = draw(batch, length, heads, width), draw(batch, length, heads), None
    A, B, C = -draw(heads).abs(), draw(batch, length, size), draw(batch, length, size)
    D, bias, h = draw(heads), draw(heads), draw(batch, heads, width, size)
    z = draw(batch, length, heads, width)
    reset = torch.rand(batch, length) < 0.3
    wide = {"delta_softplus": True, "reset": reset, "initial_state": h.flatten(1, 2)}
    one = selective_scan(
        x.flatten(2),
        dt.repeat_interleave(width, 2),
        A.repeat_interleave(width)[:, None].expand(-1, size),
        B,
        C,
        D.repeat_interleave(width),
        z.flatten(2),
        bias.repeat_interleave(width),
        **wide,
        emit="all",
        implementation=implementation,
    )
    two = ssd(
        x,
        dt,
        A,
        B[:, :, None],
        C[:, :, None],
        D,
        z,
        bias,
        True,
        chunk=3,
        reset=reset,
        initial_state=h,
        emit="all",
        implementation=implementation,
    )
    assert one[2] is not None
    assert two[2] is not None
    torch.testing.assert_close(two[0].flatten(2), one[0])
    torch.testing.assert_close(two[1].flatten(1, 2), one[1])
    torch.testing.assert_close(two[2].flatten(1, 2), one[2])


def compare(over_time, inputs, reset, emit, tolerance=1e-10, **kwargs) -> None:
    """Values and gradients of eager against the reference, in float64."""
    inputs = over_time.leaf(inputs)
    leaves = list(inputs.values())
    results = [
        over_time(inputs, reset, emit, implementation=name, **kwargs)
        for name in ("eager", "reference")
    ]
    over_time.assert_near(*results, tolerance)
    over_time.assert_near(
        *(over_time.gradients(r, leaves) for r in results), tolerance, list(inputs)
    )


@quick
@given(
    length=st.integers(1, 40),
    chunk=st.integers(1, 20),
    groups=st.sampled_from([1, 2, 4]),
    timed=st.booleans(),
    wide_skip=st.booleans(),
    density=st.sampled_from([0.0, 0.2, 0.8]),
    emit=st.sampled_from([None, "all", 1, 9]),
)
def test_chunks_groups_and_decays(
    operators, length, chunk, groups, timed, wide_skip, density, emit
):
    torch.manual_seed(length)
    over_time = operators["ssd"]
    inputs = over_time.make(2, length, torch.randn, groups=groups, timed=timed, wide_skip=wide_skip)
    if isinstance(emit, int):
        emit = torch.stack([torch.randint(n, (emit,)) for n in (2, length)], 1)
    compare(over_time, inputs, torch.rand(2, length) < density, emit, chunk=chunk)


@pytest.mark.parametrize("width", [2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_widths_of_the_convolution(operators, width, length, draw):
    over_time = operators["causal_conv"]
    inputs = over_time.make(3, length, draw, width=width)
    compare(over_time, inputs, torch.rand(3, length) < 0.3, "all")


def test_decay_and_scale_come_apart(operators, draw):
    """dt = 1 with A over time the logarithm of the decay, x scaled by the caller."""
    inputs = operators["ssd"].make(2, 7, draw)
    dt, A = torch.nn.functional.softplus(inputs["dt"]), inputs["A"]
    same = (inputs["B"], inputs["C"])
    expected = ssd(inputs["x"], dt, A, *same, emit="all")
    found = ssd(inputs["x"] * dt[..., None], torch.ones_like(dt), dt * A, *same, emit="all")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


EXTREMES: dict[str, tuple[float, float]] = {
    "decay underflows": (1.0, 1e4),
    "large steps": (60.0, 1.0),
    "no steps": (-200.0, 1.0),
    "no decay": (1.0, 0.0),
}


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_decays_and_steps(scan, case, dtype, draw):
    shift, factor = EXTREMES[case]
    inputs = scan.make(2, 9, draw)
    step = scan.timed[1]
    inputs[step][:, ::2] += shift  # beside ordinary steps, which must stay exact
    inputs["A"] *= factor
    exact, given = scan.leaf(inputs), scan.leaf(inputs, dtype)
    expected = scan(exact, None, "all", implementation="reference")
    found = scan(given, None, "all", implementation="eager")
    tolerance = 1e-10 if dtype == torch.float64 else 5e-5
    scan.assert_near(found, expected, tolerance)
    grads = scan.gradients(found, list(given.values()))
    wanted = scan.gradients(expected, list(exact.values()))
    scan.assert_near(grads, wanted, 10 * tolerance, list(inputs))
    assert all(g.isfinite().all() for g in grads)


def test_a_strong_decay_does_not_blur_its_neighbours(draw):
    """In one chunk: steps that decay by e-1000, then steps that decay by e-0.01."""
    length = 64
    A = torch.full((1, length, 1), -0.01).double()
    A[:, :32] = -1000.0
    x, B, C = draw(1, length, 1, 4), draw(1, length, 1, 8), draw(1, length, 1, 8)
    dt = torch.ones(1, length, 1).double()
    expected = ssd(x, dt, A, B, C, implementation="reference")[0]
    x, dt, A, B, C = (part.float() for part in (x, dt, A, B, C))
    found = ssd(x, dt, A, B, C, implementation="eager")[0]
    assert (found - expected).abs().max() / expected.abs().max() < 2e-6


@pytest.mark.parametrize("emit", [None, "some"])
def test_too_many_states_are_computed_again(operators, emit, draw, monkeypatch):
    """Stretches of two steps, each run a second time by the backward."""
    module: Any = importlib.import_module("worldmodels.kernels.selective_scan.eager")
    over_time = operators["selective_scan"]
    inputs = over_time.make(3, 7, draw)
    if emit is not None:
        emit = torch.tensor([[0, 0], [2, 6], [1, 3], [1, 4], [1, 3]])
    reset = torch.rand(3, 7) < 0.3
    monkeypatch.setattr(module, "_STORED", 0)
    monkeypatch.setattr(module, "_STRETCH", 2 * inputs["state"].numel() * 8)
    compare(over_time, inputs, reset, emit)
    with torch.no_grad():
        found = over_time(inputs, reset, emit, implementation="eager")
    over_time.assert_near(found, over_time(inputs, reset, emit, implementation="reference"), 1e-12)


@pytest.mark.parametrize("cached", [1, 400])
def test_rows_in_blocks(over_time, cached, draw, monkeypatch):
    """The result does not depend on how many rows are worked on at a time."""
    names = [f"{over_time.name}.eager", "ssd.chunks", "ssd.loop"]
    for name in names:
        module: Any = importlib.import_module(f"worldmodels.kernels.{name}")
        monkeypatch.setattr(module, "_CACHED", cached, raising=False)
    emission: Any = importlib.import_module("worldmodels.kernels.ssd.emission")
    monkeypatch.setattr(emission, "_SLICE", cached)
    inputs = over_time.make(5, 7, draw)
    index = torch.tensor([[0, 6], [4, 3], [2, 2], [2, 2], [3, 0]])
    for emit in (None, "all", index):
        compare(over_time, inputs, torch.rand(5, 7) < 0.3, emit)
