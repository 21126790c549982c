"""`worldmodels bench update`: where the time of one update goes, on this machine.

It times the update that training runs, on a replay of random rows, by wrapping the methods of its
parts. The unit is one 2048^3 float32 matrix product, measured in turn with the update, so that
their ratio survives a change of machine.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec, ObsSpec, Step
from worldmodels.runtime.memory import resident_gib
from worldmodels.runtime.rundir import describe_machine
from worldmodels.system import System

WARM_UP = 2
UNIT = 2048
SECTIONS = ("sampling", "world model", "imagination", "actor-critic", "backward", "optimiser")


class FlopCounter(TorchDispatchMode):
    """Operations of every matrix product and convolution inside the `with` block.

    torch's own FlopCounterMode also follows modules by hooks, which hand-written backwards break.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run `func`, and add what torch's formula for it says."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass
class Meter:
    """Seconds, CPU-seconds and floating-point operations by section, of the update at hand."""

    device: torch.device
    counting: bool = False
    """Count operations instead of timing: counting slows every operation down."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def wrap(self, owner: Any, method: str, section: str) -> None:
        """Let every call of `owner.method` count towards `section`."""
        function = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with FlopCounter() as counter:
                result = function(*args, **kwargs)
            self.flops[section] += counter.flops
            return result

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.counting:
                return counted(*args, **kwargs)
            began, cpu_began = self.now(), process_time()
            result = function(*args, **kwargs)
            self.seconds[section] += self.now() - began
            self.cpu_seconds[section] += process_time() - cpu_began
            return result

        setattr(owner, method, timed)

    def now(self) -> float:
        """The time once the device has done all it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def time(self, function: Callable[[], Any]) -> tuple[float, float]:
        """Seconds and CPU-seconds of one call."""
        began, cpu_began = self.now(), process_time()
        function()
        return self.now() - began, process_time() - cpu_began

    def pop(self) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds and CPU-seconds by section since the last call."""
        result = dict(self.seconds), dict(self.cpu_seconds)
        self.seconds.clear()
        self.cpu_seconds.clear()
        return result


def bench_update(config: Config, repeats: int = 7) -> dict[str, Any]:
    """Medians over `repeats` updates, each paired with one unit."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = max(4 * config.replay.batch_size * config.replay.batch_length, 2048)
    system = System(replace(config, steps=rows), None)  # `steps` bounds the replay's memory
    system.supply.close()
    fill(system, rows)
    meter = Meter(system.device)
    _instrument(system, meter)
    for _ in range(WARM_UP):
        system.update()
    meter.pop()
    times = _race(system, meter, repeats)
    memory = _memory(system.device)  # before counting, which allocates for itself
    meter.counting = True
    system.update()
    seconds = median(times["update"])
    return {
        "config": _summary(config),
        "device": str(system.device),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "seconds": seconds,
        "cpu_seconds": median(times["update cpu"]),
        "flops": sum(meter.flops.values()),
        "unit_seconds": median(times["unit"]),
        "units": median(u / v for u, v in zip(times["update"], times["unit"], strict=True)),
        "sections": {
            name: {
                "seconds": median(times[name]),
                "cpu_seconds": median(times[f"{name} cpu"]),
                "flops": meter.flops[name],
                "share": median(times[name]) / seconds,
            }
            for name in SECTIONS
        },
        **memory,
        "machine": describe_machine(),
    }


def _race(system: System, meter: Meter, repeats: int) -> dict[str, list[float]]:
    """Unit and update in turn, so that both see the same machine."""
    matrix = torch.rand(UNIT, UNIT, device=system.device)
    product = torch.empty_like(matrix)
    times = defaultdict(list)
    meter.time(lambda: torch.mm(matrix, matrix, out=product))
    for _ in range(repeats):
        times["unit"].append(meter.time(lambda: torch.mm(matrix, matrix, out=product))[0])
        seconds, cpu_seconds = meter.time(system.update)
        times["update"].append(seconds)
        times["update cpu"].append(cpu_seconds)
        by_section, cpu_by_section = meter.pop()
        for name in SECTIONS:
            times[name].append(by_section.get(name, 0.0))
            times[f"{name} cpu"].append(cpu_by_section.get(name, 0.0))
    return times


def _instrument(system: System, meter: Meter) -> None:
    """Name the section of every part that `System.update` calls."""
    for owner, method, section in (
        (system.replay, "sample", "sampling"),
        (system.replay, "update", "sampling"),
        (system.learner, "model_losses", "world model"),
        (system.learner, "imagine", "imagination"),
        (system.learner, "learn_behaviour", "actor-critic"),
        (system.learner, "backward", "backward"),
        (system.learner, "apply", "optimiser"),
    ):
        meter.wrap(owner, method, section)


def fill(system: System, rows: int) -> None:
    """Add random rows of the environment's kind to the replay; an episode has 100."""
    spec, lanes = system.supply.spec, system.config.num_envs
    random = np.random.default_rng(0)
    no = np.zeros(lanes, np.bool_)
    for t in range(-(-rows // lanes)):
        first, last = no | (t % 100 == 0), no | (t % 100 == 99)
        step = Step(
            obs={key: _random_obs(obs, lanes, random) for key, obs in spec.obs.items()},
            reward=random.standard_normal(lanes).astype(np.float32) * ~first,
            is_first=first,
            is_last=last,
            is_terminal=last,
            life_lost=no,
            obs_valid=~no,
            is_real_step=~first,
        )
        system.replay.add(step, _random_action(spec, lanes, random))


def _random_obs(spec: ObsSpec, lanes: int, random: np.random.Generator) -> np.ndarray:
    if spec.kind == "vector":
        return random.standard_normal((lanes, *spec.shape)).astype(np.float32)
    high = 256 if spec.kind == "image" else 2
    return random.integers(0, high, (lanes, *spec.shape)).astype(spec.dtype)


def _random_action(spec: EnvSpec, lanes: int, random: np.random.Generator) -> np.ndarray:
    if spec.action.kind == "discrete":
        return random.integers(0, spec.action.size, lanes)
    return random.uniform(-1, 1, (lanes, spec.action.size)).astype(np.float32)


def _memory(device: torch.device) -> dict[str, float]:
    """Peaks of the process and, on a GPU, of torch's allocator there."""
    memory = {"peak_gib": resident_gib(peak=True)}
    if device.type == "cuda":
        memory["peak_gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return memory


def _summary(config: Config) -> dict[str, Any]:
    """The sizes that the numbers depend on."""
    return {
        "env": config.env.name,
        "backbone": config.backbone.name,
        "batch_size": config.replay.batch_size,
        "batch_length": config.replay.batch_length,
        "starts": config.actor_critic.starts or "all",
        "imagination_length": config.actor_critic.imagination_length,
    }
