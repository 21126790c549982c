"""The parts of a run and how data flows between them: collector, replay, learner.

supply -> collector -> replay -> world model -> imagination -> actor-critic -> policy -> collector
"""

from pathlib import Path
from typing import Any

import torch

from worldmodels.agent import Agent
from worldmodels.config import Config
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
from worldmodels.supply import open_supply


class NonFiniteLoss(ArithmeticError):
    """A loss is infinite or no number; the parameters are still those of before."""

    def __init__(self, batch: Batch, loss: float):
        super().__init__(f"the loss is {loss}")
        self.batch = batch


class System:
    """The parts of a run, built from its config, and how far they got.

    `folder` is the run's, if it has one: the replay keeps its rows there.
    """

    def __init__(self, config: Config, folder: Path | None):
        apply_torch_settings(config)
        keep_freed_memory()
        device, precision, self.reasons = choose_device(config)
        fabric = build_fabric(device, precision)
        seed_globals(config.seed)
        self.config, self.device = config, fabric.device
        self.kernels = choose_kernels(self.device)
        self.supply = open_supply(config, folder)
        spec = self.supply.spec
        self.learner = Learner(config, spec, fabric)
        self.agent = Agent(
            self.learner.world_model,
            self.learner.actor_critic,
            config,
            spec,
            autocast=fabric.autocast,
            references=self.supply.references,
        )
        self.replay = Replay(
            config.replay,
            spec,
            self.learner.world_model.carry_spec(),
            config.num_envs,
            folder / "replay" if folder else None,
            stream_seed(config.seed, "replay"),
            reserve=self.supply.reserve,
            device=self.device,
        )
        acting = generator(config.seed, "acting", self.device)
        self.collector = self.supply.collector(self.agent, self.replay, acting)
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
        config = self.config
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
            *self.supply.describe(),
            f"world model {counts[0]:,} parameters ({self.learner.world_model.describe(config)}), "
            f"actor-critic {counts[1]:,}; model state {state / 1024:.1f} KiB; imagination starts "
            f"from {starts}{source}, {starts * state / 2**20:.1f} MiB",
            *self._describe_phases(),
            *self.learner.actor_critic.describe(config),
            self.replay.describe(),
        ]

    def _describe_phases(self) -> list[str]:
        """When the world model learns and when the policy, where that is not always."""
        alone, updates = self.config.model_updates, self.config.steps * self.config.updates_per_step
        if not alone:
            return []
        then = "the policy after that" if alone < updates else "no policy in this run"
        return [f"the world model alone for {alone} of about {updates:.0f} updates, {then}"]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write replay and environment states into a checkpoint's folder; returns the rest."""
        (folder / "replay").mkdir()
        self.replay.save(folder / "replay")
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "collector": self.collector.save(folder),
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
        notes = [*found.notes, *self.collector.load(folder, state["collector"], state["step"])]
        self.step = state["step"]
        self.agent.step = self.step
        self.ratio.last, self.ratio.credit = state["ratio"]["last"], state["ratio"]["credit"]
        self.means.load_state_dict(state["means"])
        return notes + set_global_states(state["random"])

    def close(self) -> None:
        """Free environments or data set, and the replay's files."""
        self.supply.close()
        self.replay.close()

    def dump(self, error: NonFiniteLoss, path: Path) -> None:
        """Write the batch that gave no number, and the parameters that it met."""
        batch = {name: value for name, value in vars(error.batch).items() if name != "carry"}
        carry = error.batch.carry
        batch["carry"] = None if carry is None else carry.save()
        save_tensors(path, {"batch": batch, "learner": self.learner.state_dict()})
