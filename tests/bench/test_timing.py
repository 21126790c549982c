"""What a measurement is; no test asks how fast anything is."""

import pytest
import torch

from worldmodels.bench.timing import growth, peak_bytes, race

CPU = torch.device("cpu")


def test_growth_is_the_exponent():
    lengths = [16, 64, 256, 1024]
    for power in (0.5, 1.0, 2.0):
        assert growth(lengths, [3e-4 * t**power for t in lengths]) == pytest.approx(power)
    overhead = [0.1 + 1e-3 * t for t in lengths]
    assert 0 < growth(lengths, overhead) < growth(lengths[-2:], overhead[-2:]) < 1


def test_peak_counts_what_is_alive_at_a_time():
    def one_after_the_other():
        for _ in range(3):
            torch.zeros(1000)

    def together():
        return [torch.zeros(1000) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == pytest.approx(4000, rel=0.1)
    assert peak_bytes(together, CPU) == pytest.approx(12_000, rel=0.1)


def test_peak_counts_what_the_backward_needs():
    x = torch.ones(1000, requires_grad=True)

    def learn():
        x.grad = None
        x.exp().exp().sum().backward()

    assert peak_bytes(learn, CPU) >= 3 * 4000


def test_peak_is_quiet(capfd):
    peak_bytes(lambda: torch.zeros(10), CPU)
    assert capfd.readouterr() == ("", "")


def test_racers_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = race(calls, 3, CPU)
    assert order == ["a", "b"] * 4  # the first round is not counted
    assert times.keys() == {"a", "b"}


def test_a_racer_that_fails_is_named():
    def fail():
        raise ValueError("no such width")

    with pytest.raises(RuntimeError, match="mine: ValueError: no such width"):
        race({"mine": fail}, 1, CPU)
