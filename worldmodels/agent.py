"""A trained agent in code: `Agent.load(run).act(obs, carry) -> action, carry`.

Letters: N streams, A action size.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodels.config import Config
from worldmodels.config_file import load_config_file
from worldmodels.envs.registry import make
from worldmodels.envs.spec import ActionSpec, EnvSpec
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.objects import Carry
from worldmodels.offline.dataset import References
from worldmodels.offline.record import read_record
from worldmodels.runtime.checkpoint import Checkpoints, step_of, verify
from worldmodels.runtime.fabric import choose_device
from worldmodels.sockets import ActorCriticBase, WorldModelBase


@dataclass(frozen=True)
class Memory:
    """What an agent carries from one observation to the next, N rows."""

    carry: Carry
    action: Tensor
    """float32 [N, A]: the action taken last, as the world model reads it."""


class Agent:
    """World model and policy, ready to act; nothing here learns."""

    def __init__(
        self,
        world_model: WorldModelBase,
        actor_critic: ActorCriticBase,
        config: Config,
        spec: EnvSpec,
        step: int = 0,
        autocast: Any = None,
        references: References | None = None,
    ):
        self.world_model, self.actor_critic = world_model, actor_critic
        self.config, self.spec, self.step = config, spec, step
        self.references = references or References()
        """Scores that the data set it learned from calls 0 and 1, if there was one."""
        self.device = next(actor_critic.parameters()).device  # known dynamics have none
        self._autocast = autocast or (lambda: torch.autocast(self.device.type, enabled=False))

    @classmethod
    def load(cls, run: str | Path, checkpoint: str = "last", device: str = "auto") -> "Agent":
        """The agent of a run folder, from its newest good checkpoint or one of its steps.

        Raises UserError where there is no run or no checkpoint that verifies.
        """
        run = Path(run)
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run} is no run folder (it has no config.yaml)")
        config = load_config_file(run / "config.yaml")
        path = find_checkpoint(run, checkpoint)
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        record = read_record(run)
        spec = record.spec if record else env_spec(config.env)
        world_model, actor_critic = build_models(config, spec)
        world_model.load_state_dict(state["learner"]["world_model"])
        actor_critic.load_state_dict(state["learner"]["actor_critic"])
        place = choose_device(replace(config, device=device, precision="auto"))[0]
        return cls(
            world_model.to(place),
            actor_critic.to(place),
            config,
            spec,
            state["step"],
            references=record.references if record else None,
        )

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        carry: Memory | None = None,
        first: np.ndarray | None = None,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[np.ndarray, Memory]:
        """Observe and choose: obs dict of [N, ...] (or one array, where there is one key).

        `carry` is what the last call gave (None: every stream starts); `first` [N] marks streams
        that start an episode with this observation. Returns actions, int64 [N] or float32 [N, A]
        in [-1, 1], and the new carry. An observation without the axis N gives an action without.
        """
        tensors, single = self._tensors(obs)
        count = next(iter(tensors.values())).shape[0]
        if carry is None:
            carry = self.initial(count)
            reset = torch.ones(count, dtype=torch.bool, device=self.device)
        else:
            marks = np.zeros(count, bool) if first is None else np.asarray(first).reshape(count)
            reset = torch.from_numpy(marks).to(self.device)
        with self._autocast():
            seen = self.world_model.observe_step(
                carry.carry, carry.action, tensors, reset, generator=generator
            )
            chosen = self.actor_critic.act(
                self.world_model.feature(seen), greedy=greedy, generator=generator
            )
        if self.spec.action.kind == "continuous":
            chosen = chosen.clamp(-1, 1)  # what the environment executes
        action = decode_action(chosen, self.spec.action)
        return (action[0] if single else action), Memory(seen, chosen)

    @torch.no_grad()
    def value(self, memory: Memory) -> np.ndarray:
        """The discounted return [N] that the critic expects after the observations so far."""
        with self._autocast():
            value = self.actor_critic.value(self.world_model.feature(memory.carry))
        return value.float().cpu().numpy()

    def initial(self, count: int) -> Memory:
        """The memory of `count` streams before their first observation."""
        action = torch.zeros(count, self.spec.action.size, device=self.device)
        return Memory(self.world_model.initial(count), action)

    def _tensors(self, obs: Any) -> tuple[dict[str, Tensor], bool]:
        """obs on the device with a leading N, and whether that axis was missing."""
        specs = self.spec.obs
        if not isinstance(obs, dict):
            if len(specs) != 1:
                raise UserError(f"the observation must be a dict with the keys {', '.join(specs)}")
            obs = {next(iter(specs)): obs}
        if obs.keys() != specs.keys():
            raise UserError(
                f"the observation has the keys {', '.join(obs)}, the agent was trained on "
                f"{', '.join(specs)}"
            )
        arrays = {key: np.asarray(obs[key], spec.dtype) for key, spec in specs.items()}
        single = all(arrays[key].ndim == len(spec.shape) for key, spec in specs.items())
        for key, spec in specs.items():
            arrays[key] = arrays[key][None] if single else arrays[key]
            if arrays[key].shape[1:] != spec.shape:
                raise UserError(
                    f"observation '{key}' has the shape {arrays[key].shape[1:]}, "
                    f"the agent was trained on {spec.shape}"
                )
        return {key: torch.from_numpy(x).to(self.device) for key, x in arrays.items()}, single


def decode_action(action: Tensor, spec: ActionSpec) -> np.ndarray:
    """The model's action [N, A] -> the environment's: int64 [N], or float32 [N, A] in [-1, 1]."""
    if spec.kind == "discrete":
        return action.argmax(-1).cpu().numpy()
    return action.float().cpu().numpy()


def env_spec(config: Any) -> EnvSpec:
    """The spec of a configured environment."""
    env = make(config, seed=0)
    env.close()
    return env.spec


def find_checkpoint(run: Path, checkpoint: str) -> Path:
    """The folder of the newest good checkpoint ("last"), or of one step ("12000")."""
    checkpoints = Checkpoints(run / "checkpoints")
    if checkpoint == "last":
        damaged: list[str] = []
        for path in checkpoints.good(damaged.append):
            return path
        why = "; ".join(damaged) or "it has none yet"
        raise UserError(f"{run} holds no checkpoint that can be read: {why}")
    steps = {str(step_of(path)): path for path in checkpoints.steps()}
    if checkpoint not in steps:
        raise UserError(f"{run} has no checkpoint of step {checkpoint}; it has {', '.join(steps)}")
    verify(steps[checkpoint])
    return steps[checkpoint]
