"""`worldmodels bench backbones`: backbones of equal size, compared in speed, memory and prediction.

The rows of the comparison differ in the backbone, its width and the posterior; encoder, decoder,
heads and latents are the same.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from worldmodels.bench.prediction import Exam, bench_prediction
from worldmodels.bench.recording import Recording, env_spec, load, record, save
from worldmodels.bench.sizing import TOLERANCE, Row, Sized, equal_sizes
from worldmodels.bench.speed import SpeedPlan, bench_speed
from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec
from worldmodels.runtime.fabric import apply_torch_settings, build_fabric, choose_device
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.rundir import describe_machine

Posterior = Literal["x", "hx"]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    parameters: int
    """Of every world model, within `TOLERANCE`."""
    exact: bool
    """Otherwise a total near `parameters` at which there is a width for every backbone."""
    speed: SpeedPlan
    timed: tuple[Posterior, ...]
    """Posteriors whose speed and memory are measured; none leaves that part out."""
    rows: int
    """To be recorded, where there is no recording yet."""
    exam: Exam
    learning: tuple[Posterior, ...]
    """Posteriors that learn from the recording; none leaves that part out."""


def bench_backbones(
    configs: Sequence[Config], plan: Plan, replay: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """One row per config and posterior; the configs differ in their backbone alone.

    `replay` is the recorded file, which is written where there is none.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    apply_torch_settings(configs[0])
    keep_freed_memory()
    device, precision, reasons = choose_device(configs[0])
    fabric = build_fabric(device, precision)
    spec = env_spec(configs[0].env)
    rows = _sized(configs, plan, spec)
    timed = [sized for posterior in plan.timed for sized in rows[posterior]]
    learning = [sized for posterior in plan.learning for sized in rows[posterior]]
    report: dict[str, Any] = {
        "env": spec.name,
        "world_model": asdict(configs[0].world_model),
        "device": device,
        "precision": precision,
        "reasons": reasons,
        "threads": torch.get_num_threads(),
        "load_before": load,
        "parameters": next(iter(rows.values()))[0].target,
        "tolerance": TOLERANCE,
        "machine": describe_machine(),  # now: the checkout may change while this runs
        "models": {sized.name: _describe(sized) for some in rows.values() for sized in some},
    }
    if timed:
        report["speed"] = bench_speed(timed, spec, plan.speed, fabric, say)
    if learning:
        recording = _recording(configs[0], plan, replay, say)
        report["prediction"] = bench_prediction(learning, recording, plan.exam, fabric, say)
    return report


def _sized(configs: Sequence[Config], plan: Plan, spec: EnvSpec) -> dict[Posterior, list[Sized]]:
    """The rows of the comparison by posterior, all of one size."""
    wanted: list[Posterior] = [p for p in ("x", "hx") if p in plan.timed + plan.learning]
    rows = [Row(config, spec, posterior) for posterior in wanted for config in configs]
    found = iter(equal_sizes(rows, plan.parameters, plan.exact))
    return {posterior: [next(found) for _ in configs] for posterior in wanted}


def _recording(config: Config, plan: Plan, path: Path, say: Callable[[str], None]) -> Recording:
    """What is in the file, or what is recorded into it."""
    if path.exists():
        say(f"learning from {path}")
        return load(path, config.env)
    say(f"recording {plan.rows} rows of random play in {config.env.name} into {path}")
    recording = record(config.env, plan.rows, seed=0)
    save(recording, path)
    return recording


def _describe(sized: Sized) -> dict[str, Any]:
    return {
        "backbone": asdict(sized.config.backbone),
        "posterior": sized.config.world_model.posterior,
        "option": sized.option,
        "width": sized.width,
        "parameters": sized.parameters,
        "deviation": sized.deviation,
    }
