"""A run through `worldmodels.train`: its folder, its errors, the agent that comes out of it."""

import errno
import json
import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodels import __version__, load_config
from worldmodels.agent import Agent
from worldmodels.config import Config
from worldmodels.curves import plot_run
from worldmodels.dream import _play, dream
from worldmodels.dry_run import dry_run
from worldmodels.errors import NonFinite, UserError
from worldmodels.evaluation import evaluate
from worldmodels.files import save_tensors
from worldmodels.registry import backbone_names
from worldmodels.runtime.checkpoint import Checkpoints
from worldmodels.system import System
from worldmodels.trainer import train


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(run: Path) -> list[dict]:
    metrics = rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics]


def test_the_folder_tells_the_run(finished: Path, tiny: Config):
    status = json.loads((finished / "status.json").read_text())
    assert (status["status"], status["step"]) == ("done", tiny.steps)
    metrics = rows(finished / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [50, 100, 150, 200]
    scores = rows(finished / "scores.jsonl")
    assert scores[-1]["kind"] == "eval"
    assert scores[-1]["episodes"] == tiny.evaluation.episodes
    train_scores = [row for row in scores if row["kind"] == "train"]
    assert {row["return"] for row in train_scores} <= {-1.0, 1.0}
    assert {row["length"] for row in train_scores} == {9}
    assert __version__ in (finished / "environment.json").read_text()


def test_updates_follow_the_train_ratio(finished: Path, tiny: Config):
    """Replayed rows per agent step, from the first step on which a batch could be drawn."""
    last = rows(finished / "metrics.jsonl")[-1]
    first = tiny.replay.batch_size * tiny.replay.batch_length
    expected = (tiny.steps - first) * tiny.updates_per_step
    assert abs(last["train/updates"] - expected) <= 3


def test_same_seed_same_run_and_other_seed_other_run(finished: Path, tiny: Config, tmp_path: Path):
    def losses(run: Path) -> list[float]:
        return [row["loss/decode/planes"] for row in rows(run / "metrics.jsonl")]

    assert losses(train(tiny, tmp_path / "same", quiet=True)) == losses(finished)
    other = train(replace(tiny, seed=1), tmp_path / "other", quiet=True)
    assert losses(other) != losses(finished)


def test_evaluating_does_not_disturb_training(finished: Path, tiny: Config, tmp_path: Path):
    often = replace(tiny, evaluation=replace(tiny.evaluation, every=20))
    run = train(often, tmp_path / "run", quiet=True)
    assert untimed(run) == untimed(finished)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a list of open files")
@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_a_run_leaves_no_file_open(tiny: Config, tmp_path: Path, storage: str):
    def opened() -> set[str]:
        names = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return {name for name in names if str(tmp_path) in name}

    config = replace(tiny, steps=70, replay=replace(tiny.replay, storage=storage, carry="stored"))
    train(config, tmp_path / "run", quiet=True)
    assert opened() == set()
    train(replace(config, steps=80), tmp_path / "run", resume=True, quiet=True)
    assert opened() == set()


def test_a_taken_folder_is_refused(finished: Path, tiny: Config):
    with pytest.raises(UserError, match="--resume"):
        train(tiny, finished, quiet=True)


def test_an_unwritable_folder_is_one_sentence(tiny: Config, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another run folder"):
        train(tiny, tmp_path / "file" / "run", quiet=True)


def test_a_run_that_never_began_leaves_no_folder(tiny: Config, tmp_path: Path):
    config = replace(tiny, backbone=replace(tiny.backbone, deter=30))
    with pytest.raises(UserError, match="does not divide by 4 blocks"):
        train(config, tmp_path / "runs" / "catch" / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_began_leaves_its_neighbours_alone(tiny: Config, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    config = replace(tiny, backbone=replace(tiny.backbone, deter=30))
    with pytest.raises(UserError, match="does not divide by 4 blocks"):
        train(config, tmp_path / "runs" / "catch" / "run", quiet=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_more_steps_extend_a_finished_run(broken_copy: Path, tiny: Config):
    longer = replace(tiny, steps=tiny.steps + 40)
    train(longer, broken_copy, resume=True, quiet=True)
    assert json.loads((broken_copy / "status.json").read_text())["step"] == longer.steps
    evaluations = [r["step"] for r in rows(broken_copy / "scores.jsonl") if r["kind"] == "eval"]
    assert evaluations == [tiny.steps, longer.steps]


def test_a_finished_run_is_not_evaluated_again(broken_copy: Path, tiny: Config):
    before = (broken_copy / "scores.jsonl").read_text()
    train(tiny, broken_copy, resume=True, quiet=True)
    assert (broken_copy / "scores.jsonl").read_text() == before
    with pytest.raises(UserError, match="lies behind it"):
        train(replace(tiny, steps=50), broken_copy, resume=True, quiet=True)


def test_a_resumed_run_takes_the_new_optimiser_options(broken_copy: Path, tiny: Config):
    def spread(learning_rate: float) -> float:
        options = replace(tiny.optimizer, learning_rate=learning_rate)
        config = replace(tiny, steps=tiny.steps + 20, optimizer=options)
        run = Path(shutil.copytree(broken_copy, broken_copy.with_name(str(learning_rate))))
        before = Agent.load(run).world_model.state_dict()
        after = Agent.load(train(config, run, resume=True, quiet=True)).world_model.state_dict()
        return max(float((after[k] - before[k]).abs().max()) for k in before)

    assert spread(1e-9) < 1e-6 < spread(1e-3)


def test_what_the_checkpoints_depend_on_stays(broken_copy: Path, tiny: Config):
    saved = (broken_copy / "config.yaml").read_text()
    other = replace(tiny, world_model=replace(tiny.world_model, units=32))
    with pytest.raises(UserError, match=r"--world-model\.units stays 16"):
        train(other, broken_copy, resume=True, quiet=True)
    assert (broken_copy / "config.yaml").read_text() == saved


def test_a_run_whose_checkpoints_are_gone_keeps_its_history(broken_copy: Path, tiny: Config):
    shutil.rmtree(broken_copy / "checkpoints")
    metrics = (broken_copy / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="nothing was changed"):
        train(replace(tiny, steps=300), broken_copy, resume=True, quiet=True)
    assert (broken_copy / "metrics.jsonl").read_text() == metrics
    assert json.loads((broken_copy / "status.json").read_text())["status"] == "done"


def test_a_foreign_checkpoint_falls_back(broken_copy: Path, tiny: Config, tmp_path: Path):
    other = replace(tiny, world_model=replace(tiny.world_model, units=8), steps=240)
    foreign = Checkpoints(train(other, tmp_path / "other", quiet=True) / "checkpoints").steps()[-1]
    shutil.copytree(foreign, broken_copy / "checkpoints" / foreign.name)
    run = train(replace(tiny, steps=220), broken_copy, resume=True, quiet=True)
    assert f"{foreign.name} does not fit" in (run / "log.txt").read_text()
    assert json.loads((run / "status.json").read_text())["step"] == 220


def test_a_halved_checkpoint_falls_back(tiny: Config, tmp_path: Path, capsys):
    run = train(tiny, tmp_path / "run", quiet=True)
    longer = replace(tiny, steps=tiny.steps + 40)
    train(longer, run, resume=True, quiet=True)
    state = Checkpoints(run / "checkpoints").steps()[-1] / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    train(longer, run, resume=True)
    told = capsys.readouterr().out
    assert str(state) in told
    assert "falling back" in told
    assert json.loads((run / "status.json").read_text())["step"] == longer.steps


def test_a_full_disk_is_one_sentence(tiny: Config, tmp_path: Path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="free disk space"):
        train(tiny, tmp_path / "run", quiet=True)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_torch_saves_onto_a_full_device_with_the_systems_error():
    with pytest.raises(OSError, match="No space left"):
        save_tensors(Path("/dev/full"), torch.zeros(100_000))


def test_a_non_finite_loss_stops_and_dumps(tiny: Config, tmp_path: Path):
    config = replace(tiny, optimizer=replace(tiny.optimizer, learning_rate=1e30, warmup=0, agc=0.0))
    with pytest.raises(NonFinite, match="0 checkpoints of before are kept"):
        train(config, tmp_path / "run", quiet=True)
    dump = torch.load(next((tmp_path / "run").glob("nonfinite_*.pt")), weights_only=True)
    assert dump["batch"]["reward"].shape == (4, 8)
    assert "world_model" in dump["learner"]


def test_the_agent_acts_alone_and_in_batches(finished: Path):
    agent = Agent.load(finished)
    frame = np.zeros((10, 5, 1), bool)
    frame[0, 2] = frame[9, 1] = True
    action, carry = agent.act(frame)
    assert action.shape == ()
    action, carry = agent.act({"planes": frame}, carry)
    batch = np.stack([frame] * 3)
    actions, carry = agent.act(batch, generator=torch.Generator().manual_seed(0))
    again, _ = agent.act(batch, generator=torch.Generator().manual_seed(0))
    assert actions.tolist() == again.tolist()
    actions, _ = agent.act(batch, carry, np.array([True, False, False]))
    assert actions.dtype == np.int64
    with pytest.raises(UserError, match="shape"):
        agent.act(np.zeros((4, 4, 1), bool))
    with pytest.raises(UserError, match="keys"):
        agent.act({"image": frame})


def test_a_first_row_forgets_the_past(finished: Path):
    """The carry of a stream marked first equals that of a new stream."""
    agent, frame = Agent.load(finished), np.ones((1, 10, 5, 1), bool)
    _, old = agent.act(frame, generator=torch.Generator().manual_seed(1))
    _, old = agent.act(frame, old, generator=torch.Generator().manual_seed(2))
    _, marked = agent.act(frame, old, np.array([True]), generator=torch.Generator().manual_seed(3))
    _, fresh = agent.act(frame, generator=torch.Generator().manual_seed(3))
    assert torch.equal(marked.carry["h"], fresh.carry["h"])
    _, unmarked = agent.act(frame, old, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(unmarked.carry["h"], fresh.carry["h"])


def test_loading_what_is_no_run(tmp_path: Path, broken_copy: Path):
    with pytest.raises(UserError, match="no run folder"):
        Agent.load(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        Agent.load(broken_copy, checkpoint="7")


def test_evaluation_is_reproducible_and_shares_episodes(finished: Path):
    agent = Agent.load(finished)
    scores = evaluate(agent, 7, seed=3, num_envs=3)
    assert scores["returns"] == evaluate(agent, 7, seed=3, num_envs=3)["returns"]
    assert len(scores["returns"]) == 7
    assert scores["mean"] == pytest.approx(np.mean(scores["returns"]))
    assert scores["normalized"] == pytest.approx((scores["mean"] + 0.6) / 1.6)
    assert set(scores["lengths"]) == {9}
    # The only reward comes with the last of nine actions.
    assert scores["discounted"] == pytest.approx(agent.config.discount**8 * scores["mean"])
    assert isinstance(scores["believed"], float)


def test_pictures(finished: Path, tmp_path: Path):
    told = dream(Agent.load(finished), tmp_path / "dream.png", context=3, horizon=5, episodes=3)
    assert told["frames"] >= 3
    assert 0 < told["copy_error"] < 0.1, "copies differ in 2 to 4 cells of 50"
    for path in (tmp_path / "dream.png", plot_run(finished)):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_played_row_holds_the_action_that_leads_to_the_next(finished: Path):
    """The dream feeds the action of row t to reach row t + 1: Catch's paddle shows it."""
    agent = Agent.load(finished)
    played = _play(agent, 5, torch.Generator().manual_seed(0), "planes")
    paddles = [int(frame[9, :, 0].argmax()) for frame in played.frames[:-1]]  # before the catch
    moves = [int(action.argmax()) - 1 for action in played.actions]
    assert len(paddles) == 9
    for t in range(len(paddles) - 1):
        assert paddles[t + 1] == min(max(paddles[t] + moves[t], 0), 4)


def test_dry_run_reports_time_and_memory(tiny: Config):
    report = dry_run(tiny)
    assert report["seconds_per_update"] > 0
    assert report["updates"] == int(tiny.steps * tiny.updates_per_step)
    assert 0.05 < report["peak_memory_gib"] < 8


@pytest.mark.parametrize(
    ("backbone", "carry"),
    [
        *product(["rssm", "hybrid"], ["zero", "burnin:3", "continue", "stored"]),
        *((name, "auto") for name in backbone_names()),
    ],
)
@pytest.mark.parametrize("posterior", ["hx", "x"])
def test_every_choice_runs_through_the_same_loop(tiny: Config, carry, posterior, backbone):
    config = load_config("catch", presets=["debug"], backbone=backbone)
    config = replace(
        config,
        world_model=replace(config.world_model, posterior=posterior),
        replay=replace(config.replay, carry=carry),
        actor_critic=replace(config.actor_critic, starts=16 if carry == "stored" else 0),
        threads=1,
    )
    system = System(config, None)
    while system.updates < 2:
        system.collect()
        system.learn()
    means = system.means.pop()
    assert all(np.isfinite(value) for value in means.values())
    assert means["loss/decode/planes"] > 0


@pytest.mark.parametrize(("starts", "said"), [(0, 32), (16, 16), (100_000, 32)])
def test_the_start_of_a_run_tells_what_states_take(tiny: Config, starts: int, said: int):
    backbone = load_config("catch", presets=["debug"], backbone="mamba").backbone
    behaviour = replace(tiny.actor_critic, starts=starts)
    told = "\n".join(
        System(replace(tiny, backbone=backbone, actor_critic=behaviour), None).describe()
    )
    state = 4 * (16 + 4 * 4 + 2 * (3 * 32 + 32 * 16))  # h, z, two layers of conv and ssm
    line = f"model state {state / 1024:.1f} KiB; imagination starts from {said}, "
    assert line + f"{said * state / 2**20:.1f} MiB" in told
    assert "carry burnin:8 (auto: the states are no vectors, or large)" in told
