"""The batched ensemble is its members; reducers are what they say; one critic is the plain one."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state

from worldmodels.config import ActorCriticConfig
from worldmodels.distributions import TwoHot, default_bins, symexp, symlog
from worldmodels.learner import Learner
from worldmodels.runtime.fabric import build_fabric
from worldmodels.values.configs import ValuesConfig
from worldmodels.values.critics import Critics
from worldmodels.values.ensemble import Ensemble
from worldmodels.values.reducers import reduce_members

F = 6


def make_critics(layers=2, units=8, **values) -> Critics:
    options = ActorCriticConfig(layers=layers, units=units)
    critics = Critics(ValuesConfig(kind="ravl", **values), options, F, 0.9)
    heads: Any = [*critics.critics.members, *critics.slow.members]
    with torch.no_grad():  # zeros would hide faults; values of a few units that differ
        for i, head in enumerate(heads):
            torch.nn.init.normal_(head.output.weight, std=0.3)
            head.output.bias.copy_(-2 * (symlog(default_bins()) - 1 - 0.1 * i) ** 2)
    return critics


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_side_by_side_is_one_by_one(count, twice):
    """Values, gradients of every member's parameters and of the features."""
    ensemble = Ensemble(count, F, 8, 3, 7, 1.0)
    feature = torch.randn(4, 3, F, requires_grad=True)
    upstream = torch.randn(count, 4, 3, 7)
    together = ensemble(feature, twice)
    alone = torch.stack([head(feature) for head in ensemble.members])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wanted = [feature, *ensemble.parameters()]
    for one, two in zip(
        torch.autograd.grad((together * upstream).sum(), wanted),
        torch.autograd.grad((alone * upstream).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_against_vmap():
    """The same stack by torch.func, on the kernel's reference, which vmap can map."""
    ensemble = Ensemble(5, F, 8, 2, 7, 1.0).double()
    feature = torch.randn(11, F, dtype=torch.float64)
    members: Any = list(ensemble.members)
    params, buffers = stack_module_state(members)
    skeleton: Any = copy.deepcopy(members[0]).to("meta")
    for layer in skeleton.mlp:
        if hasattr(layer, "forward") and type(layer).__name__ == "NormSiLU":
            layer.forward = lambda x, layer=layer: _norm_silu(x, layer.weight)

    def call(params, buffers):
        return functional_call(skeleton, (params, buffers), (feature,))

    torch.testing.assert_close(ensemble(feature), torch.vmap(call)(params, buffers))


def _norm_silu(x, weight):
    scaled = x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * weight
    return scaled * torch.sigmoid(scaled)


def test_members_are_independent():
    """Own initial values; a member's loss moves that member alone."""
    critics = make_critics(critics=3, prior_scale=0.0, reach_penalty=0.0)
    heads: Any = list(critics.critics.members)
    assert not torch.equal(heads[0].mlp[0].weight, heads[1].mlp[0].weight)
    values = critics.soft_members(torch.randn(4, 5, F), torch.ones(()))
    names = dict(critics.critics.named_parameters())
    grads = torch.autograd.grad(values[1].sum(), list(names.values()))
    touched = {name for name, g in zip(names, grads, strict=True) if g.any()}
    assert touched == {name for name in names if name.startswith("members.1.")}


MEMBERS = torch.tensor([[3.0, -1.0, 5.0], [1.0, 2.0, 5.0], [2.0, 5.0, -4.0], [4.0, 0.0, 6.0]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reducer": "mean"}, [2.5, 1.5, 3.0]),
        ({"reducer": "min"}, [1.0, -1.0, -4.0]),
        ({"reducer": "lcb", "lcb": 0.0}, [2.5, 1.5, 3.0]),
        ({"reducer": "subset_min", "subset": 4}, [1.0, -1.0, -4.0]),
    ],
)
def test_reducers_by_hand(options, expected):
    found = reduce_members(MEMBERS, ValuesConfig(kind="ravl", **options))
    assert found.tolist() == expected


def test_lcb_is_mean_less_deviations():
    found = reduce_members(MEMBERS, ValuesConfig(kind="ravl", reducer="lcb", lcb=1.5))
    columns = MEMBERS.double().numpy().T
    expected = [c.mean() - 1.5 * np.sqrt(((c - c.mean()) ** 2).mean()) for c in columns]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_subset_is_drawn_for_the_whole_call_and_from_all_pairs():
    config = ValuesConfig(kind="ravl", critics=4, reducer="subset_min", subset=2)
    pairs = {
        tuple(torch.minimum(MEMBERS[i], MEMBERS[j]).tolist()): 0 for i in range(4) for j in range(i)
    }
    for _ in range(600):
        pairs[tuple(reduce_members(MEMBERS, config).tolist())] += 1  # KeyError: mixed members
    assert min(pairs.values()) > 60  # 100 expected, deviation 9


def test_a_subset_leaves_chance_alone_where_nothing_learns():
    """An evaluation asks for values: the run must go on as it would have without."""
    critics = make_critics(critics=4, reducer="subset_min", subset=2)
    feature = torch.randn(2, 3, F)
    critics(feature)  # settles the priors
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = critics(feature).value, critics(feature).value
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert torch.equal(first, critics(feature).members[:2].amin(0))


def test_the_minimum_is_of_expectations():
    """As before symexp, for the monotone form of a critic; never of logits."""
    logits = torch.randn(5, 40, 255) * 3
    inner = TwoHot.from_logits(logits, torch.linspace(-20, 20, 255)).mean()
    torch.testing.assert_close(symexp(inner).amin(0), symexp(inner.amin(0)))
    critics = make_critics(critics=5, prior_scale=0.0, reach_penalty=0.0)
    feature = torch.randn(2, 3, F)
    estimate = critics(feature)
    bins = default_bins().double()
    each = torch.stack(
        [(h(feature).double().softmax(-1) * bins).sum(-1) for h in critics.critics.members]
    )
    torch.testing.assert_close(estimate.members.double(), each, rtol=1e-4, atol=1e-3)
    assert torch.equal(estimate.value, estimate.members.amin(0))


def test_one_critic_without_extras_is_the_plain_critic(make_config, make_spec, make_batch):
    """Bit for bit, over updates of the whole learner."""
    spec = make_spec("vector")
    plain = make_config()
    alone = ValuesConfig(kind="ravl", critics=1, prior_scale=0.0, reach_penalty=0.0)
    found = []
    for values in (plain.values, alone):
        torch.manual_seed(3)
        config = copy.copy(plain)
        object.__setattr__(config, "values", values)
        learner = Learner(config, spec, build_fabric("cpu", "32"))
        for _ in range(19):
            learner.gradients(make_batch(spec))
            learner.apply()
        update = learner.gradients(make_batch(spec))
        learner.apply()
        found.append(
            (update.loss, learner.world_model.state_dict(), learner.actor_critic.state_dict())
        )
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
