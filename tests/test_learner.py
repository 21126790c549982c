"""One update through Fabric: what is learned by which loss, in which precision, from which rows."""

import io
from dataclasses import replace

import pytest
import torch

from worldmodels.actor_critic import ActorCritic
from worldmodels.backbones.base import Stratified
from worldmodels.config import OptimizerConfig
from worldmodels.learner import Learner
from worldmodels.runtime.fabric import build_fabric
from worldmodels.world_model import WorldModel

PRECISIONS = ("32", "bf16")


def learner_of(config, spec, precision="32") -> Learner:
    return Learner(config, spec, build_fabric("cpu", precision))


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    modules = {"model": learner.world_model, "behaviour": learner.actor_critic}
    return {f"{m}.{k}": p for m, module in modules.items() for k, p in module.named_parameters()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("posterior", ["hx", "x"])
@pytest.mark.parametrize("backbone", ["rssm", "gru", "hybrid"])
def test_update_reaches_every_parameter(
    backbone, posterior, action, precision, make_config, make_spec, make_batch
):
    spec = make_spec("image", "planes", "vector", action=action)
    learner = learner_of(make_config(backbone, posterior), spec, precision)
    # A second update: in the first, the zero output layers of reward and value pass no gradient.
    learner.gradients(make_batch(spec))
    learner.apply()
    update = learner.gradients(make_batch(spec))
    for name, p in parameters(learner).items():
        if "values.slow" in name:
            assert p.grad is None
        else:
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.any(), name
    assert all(x.dtype == torch.float32 and x.shape == () for x in update.metrics.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", ["rssm", "gru"])
def test_losses_and_states_are_float32(backbone, precision, make_config, make_spec, make_batch):
    spec = make_spec("image", "vector")
    learner = learner_of(make_config(backbone), spec, precision)
    batch = make_batch(spec)
    losses, latents = learner.model_losses(batch)
    rollout = learner.imagine(latents)
    behaviour, _ = learner.learn_behaviour(rollout, latents, batch)
    found = losses | behaviour | dict(latents.start) | dict(latents.last)
    found |= {"feature": latents.feature, "imagined": rollout.feature, "cont": rollout.cont}
    assert {name for name, x in found.items() if x.dtype != torch.float32} == set()


def test_loss_is_the_weighted_sum_of_means(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    learner = learner_of(make_config(), spec)
    before = {k: p.detach().clone() for k, p in parameters(learner).items()}
    update = learner.gradients(make_batch(spec))
    # The weights of DreamerV3's 2025 form; the reconstruction has one per key.
    weights = {"dyn": 1.0, "rep": 0.1, "reward": 1.0, "continue": 1.0, "decode/vector": 1.0}
    weights |= {"policy": 1.0, "value": 1.0, "replay_value": 0.3}
    losses = {k.removeprefix("loss/"): x for k, x in update.metrics.items() if "loss/" in k}
    assert losses.keys() == weights.keys()
    expected = sum(float(losses[name]) * weight for name, weight in weights.items())
    assert float(update.loss) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(p, before[k]) for k, p in parameters(learner).items())


def test_imagined_losses_stop_at_the_features(make_config, make_spec, make_batch):
    """Imagination teaches policy and critic; the replay value loss teaches the encoder too."""
    spec = make_spec("vector")
    learner = learner_of(make_config(), spec)
    actor_critic, world_model = learner.actor_critic, learner.world_model
    assert isinstance(actor_critic, ActorCritic)
    assert isinstance(world_model, WorldModel)
    torch.nn.init.normal_(actor_critic.values.critics.members[0].output.weight)
    batch = make_batch(spec)
    _, latents = learner.model_losses(batch)
    losses, _ = learner.learn_behaviour(learner.imagine(latents), latents, batch)
    encoder = list(world_model.encoder.parameters())
    for name, reaches in {"policy": False, "value": False, "replay_value": True}.items():
        grads = torch.autograd.grad(
            losses[name].mean(), encoder, retain_graph=True, allow_unused=True
        )
        assert any(g is not None and g.any() for g in grads) == reaches, name


@pytest.mark.parametrize("posterior", ["hx", "x"])
def test_starts_are_as_many_from_every_row_of_time(posterior, make_config, make_spec, make_batch):
    spec = make_spec("vector")
    batch = make_batch(spec, 4, 6)
    learner = learner_of(make_config("mamba", posterior, starts=12), spec)
    seen = set()
    for _ in range(20):
        _, latents = learner.model_losses(batch)
        index = [tuple(pair) for pair in latents.start_index.tolist()]
        assert len(set(index)) == len(index) == 12
        assert [t for _, t in index] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        rows = torch.stack([latents.feature.detach()[b, t] for b, t in index])
        assert torch.equal(latents.start["h"], rows[:, :16])
        seen |= set(index)
    assert seen == {(b, t) for b in range(4) for t in range(6)}
    for count in (0, 24, 25):
        _, latents = learner_of(make_config(starts=count), spec).model_losses(batch)
        assert latents.start_index.tolist() == [[b, t] for b in range(4) for t in range(6)]


@pytest.mark.parametrize("backbone", ["gru", "transformer", "mamba2"])
@pytest.mark.parametrize("posterior", ["hx", "x"])
def test_drawn_starts_are_the_states_of_the_whole_pass(
    backbone, posterior, make_config, make_spec, make_batch
):
    spec = make_spec("vector")
    batch = make_batch(spec, 3, 5)
    world_model = learner_of(make_config(backbone, posterior), spec).world_model
    rows = torch.tensor([[2, 0], [1, 2], [0, 1], [2, 1], [0, 2]])
    torch.manual_seed(1)
    _, every = world_model(batch, "all")
    torch.manual_seed(1)
    _, some = world_model(batch, Stratified(rows))
    picked = every.start.index((rows * 5 + torch.arange(5)[:, None]).flatten())
    assert some.start.keys() == picked.keys()
    for name, leaf in some.start.items():
        torch.testing.assert_close(leaf, picked[name])


def test_burnin_warms_the_carry_up_without_loss(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    learner = learner_of(make_config(), spec)
    batch = make_batch(spec, 2, 6)
    torch.manual_seed(3)
    warm = learner.world_model.warm_up(replace(batch, burnin=2))
    torch.manual_seed(3)
    _, latents = learner.world_model(batch.rows(0, 2), "all")
    assert warm.carry is not None
    for name, leaf in latents.last.items():
        assert torch.equal(warm.carry[name], leaf), name
        assert not warm.carry[name].requires_grad
    assert warm.index.tolist() == batch.index[:, 2:].tolist()
    assert not warm.reset[:, 0].any()
    update = learner.gradients(replace(batch, burnin=2))
    assert update.latents.feature.shape[:2] == (2, 4)


def test_burnin_computes_in_the_runs_precision(make_config, make_spec, make_batch):
    """Every pass through the networks of an update runs under the same autocast."""
    spec = make_spec("vector")
    learner = learner_of(make_config(), spec, "bf16")
    found = []
    assert isinstance(learner.world_model, WorldModel)
    learner.world_model.dynamics.from_action.register_forward_hook(
        lambda module, args, output: found.append(output.dtype)
    )
    learner.gradients(replace(make_batch(spec), burnin=2))
    assert len(found) == 2 + learner.config.actor_critic.imagination_length
    assert set(found) == {torch.bfloat16}


def test_learner_state_resumes_bit_for_bit(make_config, make_spec, make_batch):
    spec = make_spec("vector")
    batch = make_batch(spec)

    def advance(learner: Learner, updates: int) -> torch.Tensor:
        loss = torch.zeros(())
        for _ in range(updates):
            loss = learner.gradients(batch).loss
            learner.apply()
        return loss

    first = learner_of(make_config(), spec)
    advance(first, 2)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    expected = advance(first, 3)
    second = learner_of(make_config(), spec)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(5)
    assert torch.equal(advance(second, 3), expected)
    others = parameters(second)
    assert all(torch.equal(p, others[k]) for k, p in parameters(first).items())


def test_warm_up_scales_the_first_steps(make_config, make_spec, make_batch):
    """Update n (from 0) moves every parameter by lr (n + 1) / warmup at first: |mu^| = 1."""
    spec = make_spec("vector")
    config = replace(make_config(), optimizer=OptimizerConfig(learning_rate=1e-2, warmup=10))
    learner = learner_of(config, spec)
    before = {k: p.detach().clone() for k, p in parameters(learner).items()}
    learner.gradients(make_batch(spec))
    learner.apply()
    p = parameters(learner)["model.dynamics.from_z.0.bias"]
    moved = (p - before["model.dynamics.from_z.0.bias"]).abs()
    assert p.grad is not None
    torch.testing.assert_close(moved[p.grad != 0], torch.full_like(moved[p.grad != 0], 1e-3))


def test_imagination_from_windows_of_its_own(make_config, make_spec, make_batch):
    """It starts from the states at their ends; only the policy and the critic learn there."""
    spec = make_spec("vector")
    learner = learner_of(make_config("mamba2", "x", starts=3, context=2), spec)
    batch, context = make_batch(spec), make_batch(spec, 3, 4)
    context.is_terminal[1, 3] = True
    torch.manual_seed(5)
    latents, same = learner.run_context(context)
    torch.manual_seed(5)
    _, whole = learner.world_model(context, "all")
    ends = torch.tensor([[0, 3], [1, 3], [2, 3]])
    assert same is context
    assert torch.equal(latents.start_index, ends)
    assert latents.start_weight.tolist() == [1.0, 0.0, 1.0]
    rows = ends[:, 0] * 4 + ends[:, 1]
    for key, leaf in whole.start.items():
        torch.testing.assert_close(latents.start[key], leaf[rows], rtol=1e-5, atol=1e-6)
    assert not latents.feature.requires_grad
    update = learner.gradients(batch, context)
    assert update.latents.start_index.shape == (0, 2)
    assert all(p.grad is not None for p in learner.world_model.parameters())  # its own losses


def test_the_world_model_learns_alone_first(make_config, make_spec, make_batch):
    """K updates move the model only; after them the model stays and the policy moves."""
    spec = make_spec("vector")
    learner = learner_of(replace(make_config(), model_updates=3), spec)
    moved = []
    for _ in range(6):
        before = {k: p.detach().clone() for k, p in parameters(learner).items()}
        update = learner.gradients(make_batch(spec))
        learner.apply()
        after = parameters(learner)
        moved.append({k.partition(".")[0] for k in before if not torch.equal(before[k], after[k])})
        assert ("loss/reward" in update.metrics) == ("loss/policy" not in update.metrics)
    assert moved == [{"model"}] * 3 + [{"behaviour"}] * 3
    state = learner.state_dict()
    other = learner_of(replace(make_config(), model_updates=3), spec)
    other.load_state_dict(state)
    assert other.updates == 6
