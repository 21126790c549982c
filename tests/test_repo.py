"""RePo's objective against its formula, and what each of its losses may move."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from worldmodels.errors import UserError
from worldmodels.learner import Learner
from worldmodels.presets import load_config
from worldmodels.repo import KLConstraint
from worldmodels.runtime.fabric import build_fabric


def repo_learner(make_config, spec, **options) -> Any:
    config = make_config()
    model = replace(config.world_model, **{"objective": "repo", **options})
    config = replace(config, world_model=model, optimizer=replace(config.optimizer, warmup=0))
    return Learner(config, spec, build_fabric("cpu", "32"))


def test_losses_by_the_formula(make_config, make_spec, make_batch):
    """beta (5/6 KL(sg q || p) + 1/6 KL(q || sg p)), -log beta (KL - target); no free nats."""
    spec = make_spec("vector")
    model = repo_learner(make_config, spec, kl_target=0.7).world_model
    with torch.no_grad():
        model.constraint.log_beta.fill_(-1.5)
    torch.manual_seed(1)
    losses, latents = model(make_batch(spec), "all")
    post, prior = (
        (0.99 * torch.softmax(x.detach().double(), -1) + 0.01 / 4).numpy()
        for x in (latents.post_logits, latents.prior_logits)
    )
    kl = (post * np.log(post / prior)).sum((-2, -1))
    beta = np.exp(-1.5)
    np.testing.assert_allclose(losses["dyn"].detach(), 5 / 6 * beta * kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses["rep"].detach(), 1 / 6 * beta * kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses["kl"], kl, rtol=1e-4, atol=1e-6)
    assert losses["multiplier"].item() == pytest.approx(1.5 * (kl.mean() - 0.7), rel=1e-4)
    assert model.weights().keys() == losses.keys()


@pytest.mark.parametrize(("kl", "rises"), [(5.0, True), (1.0, False)])
def test_the_multiplier_rises_while_the_kl_is_too_large(kl, rises):
    constraint = KLConstraint(3.0)
    dyn = torch.full((2, 3), kl)
    losses = constraint(dyn, dyn)
    grad = torch.autograd.grad(losses["multiplier"], constraint.log_beta)[0]
    assert float(grad) == pytest.approx(3.0 - kl)
    assert (float(grad) < 0) == rises
    assert not any(losses[name].requires_grad for name in ("dyn", "rep"))  # beta is fixed there


def test_pixels_teach_the_latents_nothing(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    learner = repo_learner(make_config, spec)
    learner.gradients(make_batch(spec))
    learner.apply()  # the zero output layers pass no gradient at first
    losses, _ = learner.model_losses(make_batch(spec))
    model = learner.world_model
    encoder, decoder = list(model.encoder.parameters()), list(model.decoder.parameters())

    def reaches(name: str, parameters: list) -> bool:
        grads = torch.autograd.grad(
            losses[name].mean(), parameters, retain_graph=True, allow_unused=True
        )
        return any(g is not None and bool(g.any()) for g in grads)

    assert reaches("decode/vector", decoder)
    assert not reaches("decode/vector", encoder)
    assert all(reaches(name, encoder) for name in ("dyn", "rep", "reward", "continue"))


def test_critics_teach_the_latents_nothing(make_config, make_spec, make_batch):
    """They do in DreamerV3, by their loss on replayed states."""
    spec = make_spec("vector")
    for objective, taught in (("repo", False), ("reconstruction", True)):
        learner = repo_learner(make_config, spec, objective=objective)
        learner.gradients(make_batch(spec))
        learner.apply()  # the zero output layers pass no gradient at first
        batch = make_batch(spec)
        _, latents = learner.model_losses(batch)
        losses, _ = learner.learn_behaviour(learner.imagine(latents), latents, batch)
        encoder = list(learner.world_model.encoder.parameters())
        total = torch.stack([loss.mean() for loss in losses.values()]).sum()
        grads = torch.autograd.grad(total, encoder, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in grads) == taught


def test_the_multiplier_learns_at_its_own_rate(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    learner = repo_learner(make_config, spec, kl_rate=0.01)
    first = learner.world_model.constraint.log_beta.item()
    for _ in range(10):
        learner.gradients(make_batch(spec))
        learner.apply()
    moved = first - learner.world_model.constraint.log_beta.item()
    assert 0.002 < moved < 0.11  # random latents of three groups stay below 3 nats: it falls
    groups = learner.optimizer.param_groups
    assert [len(group["params"]) for group in groups][1] == 1
    assert groups[1]["lr"] == 0.01


def test_options_of_the_other_objective_are_refused():
    with pytest.raises(UserError, match="kl_target and kl_rate belong to"):
        load_config("catch", ["debug"], world_model={"kl_target": 2.0})
