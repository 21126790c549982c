"""The public check for a value learner of your own.

from worldmodels.values.testing import check_values
check_values("my_package.my_module:MyValues")
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from worldmodels.dreamer_options import ActorCriticConfig
from worldmodels.parts import values_class
from worldmodels.values.base import Estimate, ValueLearner
from worldmodels.values.configs import ValuesConfig

M, L, F = 24, 5, 6
ONES = torch.ones(())


def check_values(kind: str, options: ValuesConfig | None = None, seed: int = 0) -> None:
    """AssertionError, with the rule that is broken, where a value learner breaks one.

    The rules: shapes and types; `value` and `bootstrap` carry no gradient; losses are finite and
    reach every parameter that learns; a frozen parameter never moves; a `state_dict` holds all that
    decides its values; states are told apart (rows do not mix); and it learns a known value
    function from its targets.
    """
    torch.manual_seed(seed)
    options = replace(options or ValuesConfig(), kind=kind)
    behaviour = ActorCriticConfig(layers=1, units=32)
    make = values_class(kind)
    values, other = (make(options, behaviour, F, 0.9) for _ in range(2))
    assert isinstance(values, ValueLearner), f"{kind} is no ValueLearner"
    _check_shapes(values)
    _check_learning(values)
    _check_rows(values)
    _check_state(values, other)


def _check_shapes(values: ValueLearner) -> None:
    feature, target = torch.randn(M, L + 1, F), torch.randn(M, L)
    estimate = values(feature)
    bootstrap = values.bootstrap(estimate, feature, ONES)
    loss = estimate.loss(target)
    for name, x, shape in (
        ("value", estimate.value, (M, L + 1)),
        ("bootstrap", bootstrap, (M, L + 1)),
        ("loss", loss, (M, L)),
    ):
        assert tuple(x.shape) == shape, f"{name} has the shape {tuple(x.shape)}, not {shape}"
        assert x.dtype == torch.float32, f"{name} is {x.dtype}, not float32"
        assert x.isfinite().all(), f"{name} is not finite"
    assert not estimate.value.requires_grad, "value carries a gradient: detach it"
    assert not bootstrap.requires_grad, "bootstrap carries a gradient: detach it"
    assert estimate.members.shape[1:] == (M, L + 1), "members are [V, N, T]"
    assert estimate.members.isfinite().all(), "members are not finite"
    more = values.losses(estimate, feature, ONES)
    assert more.keys() == values.weights().keys(), "losses and weights have different names"
    assert torch.equal(bootstrap[:, :-1], estimate.value[:, :-1]), (
        "bootstrap may change the last value only: the others are inputs of the loss"
    )


def _check_rows(values: ValueLearner) -> None:
    feature = torch.randn(M, L + 1, F)
    whole, part = values(feature).members, values(feature[3:5]).members
    assert torch.allclose(whole[:, 3:5], part, atol=1e-4, rtol=1e-3), (
        "a sequence's values depend on the other sequences"
    )


def _check_learning(values: ValueLearner) -> None:
    """A value of 3 where the first number of the feature is positive, -3 elsewhere."""
    params = {name: p for name, p in values.named_parameters() if p.requires_grad}
    frozen = {n: p.clone() for n, p in values.named_parameters() if not p.requires_grad}
    copies = _slow_names(values)
    optimizer = torch.optim.Adam(list(params.values()), lr=3e-3)
    touched: set[str] = set()
    for _ in range(300):
        feature = torch.randn(M, L + 1, F)
        estimate = values(feature)
        values.bootstrap(estimate, feature, ONES)
        losses = values.losses(estimate, feature, ONES)
        total = estimate.loss(_truth(feature)[:, :-1]).mean()
        total = total + sum(losses[name].mean() * w for name, w in values.weights().items())
        optimizer.zero_grad()
        total.backward()
        touched |= {n for n, p in params.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
        values.after_update(ONES)
    missed = params.keys() - touched
    assert not missed, f"no loss reaches {', '.join(sorted(missed))}"
    for name, before in frozen.items():
        same = torch.equal(before, values.get_parameter(name))
        assert same or name in copies, f"the frozen parameter {name} moved"
    feature = torch.randn(200, 2, F)
    error = (_value(values(feature)) - _truth(feature)).abs().median()
    assert error < 1, f"after 300 updates its values are off by {float(error):.2f} of 3"


def _slow_names(values: ValueLearner) -> set[str]:
    """Frozen parameters that `after_update` moves towards others: slow copies."""
    copied = copy.deepcopy(values)
    with torch.no_grad():
        for p in copied.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    before = {n: p.clone() for n, p in copied.named_parameters() if not p.requires_grad}
    copied.after_update(ONES)
    return {n for n, p in before.items() if not torch.equal(p, copied.get_parameter(n))}


def _check_state(values: ValueLearner, other: ValueLearner) -> None:
    other.load_state_dict(values.state_dict())
    feature = torch.randn(M, L + 1, F)
    one, two = values(feature), other(feature)
    assert torch.equal(one.members, two.members), "a restored learner has other values"
    torch.manual_seed(1)
    first = values.bootstrap(one, feature, ONES)
    torch.manual_seed(1)
    second = other.bootstrap(two, feature, ONES)
    assert torch.equal(first, second), "a restored learner bootstraps from other values"


def _truth(feature: Tensor) -> Tensor:
    return feature[..., 0].sign() * 3


def _value(estimate: Estimate) -> Tensor:
    return estimate.members.mean(0)
