"""The parts of a run and how data flows between them: collector, replay, learner.

envs -> collector -> replay -> world model -> imagination -> actor-critic -> policy -> collector
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from worldmodels.agent import Agent
from worldmodels.collector import Collector
from worldmodels.config import Config
from worldmodels.envs.registry import describe_schedule, make
from worldmodels.envs.vector import make_vec
from worldmodels.files import save_tensors
from worldmodels.learner import Learner
from worldmodels.objects import Batch
from worldmodels.replay import Replay
from worldmodels.runtime.clocks import Ratio
from worldmodels.runtime.fabric import (
    apply_torch_settings,
    build_fabric,
    choose_device,
    choose_kernels,
)
from worldmodels.runtime.logs import Means
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.seeding import (
    generator,
    global_states,
    seed_globals,
    set_global_states,
    stream_seed,
)


class NonFiniteLoss(ArithmeticError):
    """A loss is infinite or no number; the parameters are still those of before."""

    def __init__(self, batch: Batch, loss: float):
        super().__init__(f"the loss is {loss}")
        self.batch = batch


class System:
    """The parts of a run, built from its config, and how far they got."""

    def __init__(self, config: Config, replay_folder: Path | None):
        apply_torch_settings(config)
        keep_freed_memory()
        device, precision, self.reasons = choose_device(config)
        fabric = build_fabric(device, precision)
        seed_globals(config.seed)
        self.config, self.device = config, fabric.device
        self.kernels = choose_kernels(self.device)
        self.envs = make_vec(config.env, config.num_envs, stream_seed(config.seed, "envs"))
        self.learner = Learner(config, self.envs.spec, fabric)
        self.agent = Agent(
            self.learner.world_model,
            self.learner.actor_critic,
            config,
            self.envs.spec,
            autocast=fabric.autocast,
        )
        self.replay = Replay(
            config.replay,
            self.envs.spec,
            self.learner.world_model.carry_spec(),
            config.num_envs,
            replay_folder,
            stream_seed(config.seed, "replay"),
            reserve=config.steps + config.steps // 8,  # every episode adds a row to its steps
            device=self.device,
        )
        acting = generator(config.seed, "acting", self.device)
        self.collector = Collector(self.envs, self.agent, self.replay, acting)
        self.step = 0
        self.ratio = Ratio(config.updates_per_step)
        self.means = Means()

    def collect(self) -> list[dict]:
        """One row of every environment; returns the episodes that ended with it."""
        executed, ended = self.collector.collect()
        self.step += executed
        self.agent.step = self.step
        return ended

    def learn(self) -> None:
        """As many updates as the train ratio asks for by now."""
        if not self.ready():
            self.ratio.skip(self.step)
            return
        for _ in range(self.ratio.due(self.step)):
            self.update()

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.learner.updates

    def ready(self) -> bool:
        """Whether the replay holds a batch."""
        size, length = self.config.replay.batch_size, self.config.replay.batch_length
        return self.replay.rows >= size * length and self.replay.can_sample(length)

    def update(self) -> None:
        """Sample, learn, and give the refreshed model states back to the replay."""
        options = self.config.replay
        batch = self.replay.sample(options.batch_size, options.batch_length)
        index = batch.index[:, batch.burnin :]  # stays on the CPU, where the replay is
        batch, context = batch.to(self.device), self._context()
        update = self.learner.gradients(batch, context)
        if not torch.isfinite(update.loss):
            raise NonFiniteLoss(batch, float(update.loss))
        self.learner.apply()
        latents = update.latents
        b, t = latents.start_index.cpu().unbind(1)
        self.replay.update(index[b, t], carry=latents.start)
        self.replay.update(index[:, -1], carry=latents.last)
        self.means.add(update.metrics)

    def _context(self) -> Batch | None:
        """Windows drawn for imagination alone, where it does not start from the learned batch."""
        options = self.config.actor_critic
        if not options.context:
            return None
        drawn = self.replay.sample(options.starts, options.context, purpose="imagine")
        return drawn.to(self.device)

    def describe(self) -> list[str]:
        """What was chosen for this run, and why."""
        config, spec = self.config, self.envs.spec
        models = (self.learner.world_model, self.learner.actor_critic)
        counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in models]
        state = self.agent.initial(1).carry.nbytes_per_row
        batch = config.replay.batch_size * config.replay.batch_length
        starts, context = config.actor_critic.starts, config.actor_critic.context
        starts = starts if context else min(starts or batch, batch)
        source = f" of windows of {context} rows drawn for it" if context else ""
        return [
            *self.reasons,
            *(f"kernel {k.operator}: {k.implementation} ({k.reason})" for k in self.kernels),
            f"environment {spec.name}: {config.num_envs} of them, "
            + ", ".join(f"{key} {o.kind} {o.shape}" for key, o in spec.obs.items())
            + f"; {spec.action.size} {spec.action.kind} actions; frame skip {spec.frame_skip}",
            f"world model {counts[0]:,} parameters ({self.learner.world_model.describe(config)}), "
            f"actor-critic {counts[1]:,}; model state {state / 1024:.1f} KiB; imagination starts "
            f"from {starts}{source}, {starts * state / 2**20:.1f} MiB",
            *self.learner.actor_critic.describe(config),
            *describe_schedule(config.env, config.steps),
            self.replay.describe(),
            f"train ratio {config.train_ratio:g} replayed rows per agent step = "
            f"{config.updates_per_step:.4g} updates per agent step, from {batch} rows in the "
            "replay on",
        ]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write replay and environment states into a checkpoint's folder; returns the rest.

        Environment states hold numpy arrays, which `torch.load` refuses, so they are pickled apart.
        """
        (folder / "replay").mkdir()
        self.replay.save(folder / "replay")
        with (folder / "envs.pkl").open("wb") as file:
            pickle.dump(self.envs.get_state(), file)
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "collector": self.collector.state_dict(),
            "ratio": vars(self.ratio),
            "means": self.means.state_dict(),
            "random": global_states(),
        }

    def load(self, folder: Path, state: dict[str, Any], drop_damaged: bool = False) -> list[str]:
        """Inverse of `save`; returns what could not be continued exactly, a sentence each.

        `drop_damaged`: go on without the replay's segments whose files are damaged.
        """
        found = self.replay.restore(folder / "replay", drop_damaged)
        self.learner.load_state_dict(state["learner"])
        notes = [*found.notes, *self.collector.load_state_dict(state["collector"])]
        with (folder / "envs.pkl").open("rb") as file:
            states = pickle.load(file)
        lost = self.collector.restore_envs(states)
        for lane in (lane for lane in lost if states[lane] is None):  # not a stream: it goes on
            self.envs.envs[lane].close()
            seed = stream_seed(self.config.seed, f"envs/{lane}/{state['step']}")
            self.envs.envs[lane] = make(self.config.env, seed)
        if lost:
            notes.append(f"environments {lost} cannot be saved: they start new episodes")
        self.step = state["step"]
        self.agent.step = self.step
        self.ratio.last, self.ratio.credit = state["ratio"]["last"], state["ratio"]["credit"]
        self.means.load_state_dict(state["means"])
        return notes + set_global_states(state["random"])

    def dump(self, error: NonFiniteLoss, path: Path) -> None:
        """Write the batch that gave no number, and the parameters that it met."""
        batch = {name: value for name, value in vars(error.batch).items() if name != "carry"}
        carry = error.batch.carry
        batch["carry"] = None if carry is None else carry.save()
        save_tensors(path, {"batch": batch, "learner": self.learner.state_dict()})
