"""Whole runs on Pendulum: exact resume, acting again from a checkpoint, frozen models, learning."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from worldmodels.agent import Agent
from worldmodels.config import Config
from worldmodels.presets import load_config
from worldmodels.system import System
from worldmodels.trainer import train


@pytest.fixture
def tiny(small):
    """`tiny("ravl-mbpo")`: a run whose ring wraps and whose replay forgets."""

    def make(preset: str, **options: Any) -> Config:
        rows = {"batch_size": 16, "capacity": 128, "segment": 16}
        behaviour = {} if preset == "sac" else {"retain": 10}
        config = small(
            preset,
            replay=rows,
            actor_critic=behaviour,
            train_ratio=32,
            deterministic=True,
            evaluation={"episodes": 2, "envs": 2},
            log={"every": 50, "tensorboard": False},
            **options,
        )
        return replace(config, env=replace(config.env, max_steps=20))

    return make


def advance(system: System, step: int) -> System:
    while system.step < step:
        system.collect()
        system.learn()
    return system


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dicts and lists, by its path."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, x in pairs for k, v in flat(x, f"{name}.{key}").items()}
    return {name: value}


@pytest.mark.parametrize("preset", ["ravl-mbpo", "sac", "vagram"])
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(preset, tiny, tmp_path: Path):
    vagram = {"world_model": {"vagram": 0.5}} if preset == "vagram" else {}
    config = tiny("mbpo" if vagram else preset, **vagram)
    first = advance(System(config, tmp_path), 90)
    (tmp_path / "saved").mkdir()
    state = first.save(tmp_path / "saved")
    torch.save(state, tmp_path / "state.pt")
    expected = flat(advance(first, 150).learner.state_dict())
    second = System(config, tmp_path)
    second.load(tmp_path / "saved", torch.load(tmp_path / "state.pt", weights_only=True))
    found = flat(advance(second, 150).learner.state_dict())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value
        assert same, name
    assert first.updates == second.updates > 60
    kinds = ("ring.rows", "ring.cursor", "elites", "error", "standardiser.mean", "log_alpha")
    for kind in kinds if preset != "sac" else kinds[-1:]:
        assert any(name.endswith(kind) for name in expected), kind


def test_a_run_acts_again_from_its_checkpoint(tiny, tmp_path: Path):
    run = train(tiny("ravl-mbpo", steps=60), tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train"] * 3 + ["eval"]
    assert -400 < rows[-1]["mean"] < 0  # 20 steps
    agent = Agent.load(run)
    _, memory = agent.act({"vector": torch.randn(3, 3).numpy()}, greedy=True)
    assert rows[-1]["believed"] is not None  # what SAC's critics expected
    assert agent.value(memory).shape == (3,)
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    for name in ("loss/diversity", "loss/held_out", "behaviour/penalty", "behaviour/ring"):
        assert name in last
    action, memory = agent.act({"vector": torch.zeros(2, 3).numpy()}, greedy=True)
    again, _ = agent.act({"vector": torch.zeros(2, 3).numpy()}, memory, greedy=True)
    assert action.shape == (2, 1)
    assert (action == again).all()  # there is no memory


@pytest.mark.parametrize(("alone", "then"), [(49, "the policy after that"), (50, "no policy in")])
def test_a_run_says_when_its_policy_learns(tiny, tmp_path: Path, alone, then):
    """16 x 2 rows a batch at 32 replayed rows a step: an update a step."""
    system = System(tiny("ravl-mbpo", steps=50, model_updates=alone), tmp_path)
    said = f"the world model alone for {alone} of about 50 updates, {then}"
    assert any(line.startswith(said) for line in system.describe())
    system.close()


def test_the_model_alone_and_then_frozen(tiny, tmp_path: Path):
    """`model_updates`: elites are chosen at the end of the model's own updates and stay."""
    system = System(tiny("ravl-mbpo", model_updates=30), tmp_path)
    learner = system.learner

    def snapshot(module) -> dict[str, torch.Tensor]:
        return {name: x.clone() for name, x in module.state_dict().items()}

    while system.updates < 30:
        before = snapshot(learner.actor_critic)
        advance(system, system.step + 1)
        after = learner.actor_critic.state_dict()
        assert all(torch.equal(x, after[name]) for name, x in before.items())
    model: Any = learner.world_model
    assert model.elites.tolist() == model.error.argsort()[:2].tolist()
    frozen = snapshot(model)
    advance(system, system.step + 20)
    assert system.updates >= 45
    assert all(torch.equal(x, frozen[name]) for name, x in model.state_dict().items())
    ring: Any = learner.actor_critic
    assert int(ring.ring.size) > 0


def test_what_a_run_says_before_it_starts(tmp_path: Path):
    system = System(load_config("gym:Pendulum-v1", ["ravl-mbpo"], steps=100, threads=1), None)
    told = "\n".join(system.describe())
    assert "7 Gaussian networks, 5 of them elites by 20% held-out rows" in told
    assert "10 critics, 12 of 256 transitions replayed; ring of 1,250,000 imagined" in told
    assert "42.9 MiB, also in every checkpoint" in told
    assert "= 1 updates per agent step, from 512 rows" in told


def test_a_data_set_is_learned_from_offline(tiny, tmp_path: Path):
    """The rows of another run: the model first, then RAVL in it, with no environment stepped."""
    data = train(tiny("sac", steps=70), tmp_path / "data", quiet=True)
    config = tiny("ravl-mbpo", offline=str(data), steps=50, model_updates=20)
    run = train(config, tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["eval"]
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last["train/updates"], last["replay/rows"]) == (50, 74)
    assert last["behaviour/ring"] > 0
