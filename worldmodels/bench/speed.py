"""Times, growth and memory of equally large world models, side by side.

Letters: B sequences in a batch, T rows of time, M imagination starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch

from worldmodels.bench.sizing import Sized
from worldmodels.bench.subject import ACTING_STEPS, IMAGINED_STEPS, Subject
from worldmodels.bench.timing import growth, peak_bytes, race
from worldmodels.envs.spec import EnvSpec

PARTS = ("sequence", "observe")
"""What is timed over T: the backbone alone; posterior, backbone and prior together."""


@dataclass(frozen=True)
class SpeedPlan:
    """What is timed."""

    lengths: tuple[int, ...]
    """T."""
    batches: tuple[int, ...]
    """B; memory is measured at the largest."""
    hx_length: int
    """The longest T of posterior `hx`, which is a loop whatever the backbone."""
    starts: int
    """M."""
    repeats: int


def bench_speed(
    rows: Sequence[Sized], spec: EnvSpec, plan: SpeedPlan, fabric: Any, say: Callable[[str], None]
) -> dict[str, Any]:
    """Medians by row of the comparison, and at every B and T."""
    subjects = {sized.name: Subject(sized, spec, fabric.device, fabric.autocast) for sized in rows}
    points = []
    for length, batch in product(sorted(plan.lengths), sorted(plan.batches)):
        some = {name: s for name, s in subjects.items() if _has(s, length, plan)}
        say(f"forward and backward over {batch} x {length} rows")
        points += _points(some, batch, length, plan, fabric.device)
    say("acting, imagining and handing out starts")
    return {
        **asdict(plan),
        "points": points,
        "models": _singles(subjects, plan, fabric.device),
        "growth": _growth(subjects, points, plan),
    }


def _has(subject: Subject, length: int, plan: SpeedPlan) -> bool:
    return not subject.sequential or length <= plan.hx_length


def _points(
    subjects: dict[str, Subject], batch: int, length: int, plan: SpeedPlan, device: torch.device
) -> list[dict[str, Any]]:
    """Every row at one B and T; posterior `hx` never calls the backbone's `sequence`."""
    calls = {(name, "observe"): s.observe(batch, length) for name, s in subjects.items()}
    calls |= {
        (name, "sequence"): s.sequence(batch, length)
        for name, s in subjects.items()
        if not s.sequential
    }
    times = race(calls, plan.repeats, device)
    points = []
    for name in subjects:
        point: dict[str, Any] = {"model": name, "batch": batch, "length": length}
        point |= {part: times.get((name, part)) for part in PARTS}
        if batch == max(plan.batches):
            point["peak_bytes"] = peak_bytes(calls[name, "observe"], device)
        points.append(point)
    return points


def _singles(
    subjects: dict[str, Subject], plan: SpeedPlan, device: torch.device
) -> dict[str, dict[str, Any]]:
    """What does not depend on T: one step, imagination, the size of a state, handing them out."""
    batch = min(plan.starts, max(plan.batches))
    length = plan.starts // batch
    act = race({name: s.act() for name, s in subjects.items()}, plan.repeats, device)
    result = {}
    imagine = race(
        {name: s.imagine(plan.starts) for name, s in subjects.items()}, plan.repeats, device
    )
    calls = {
        (name, which): subject.observe(batch, length, all_starts=which == "all")
        for name, subject in subjects.items()
        for which in ("few", "all")
    }
    emit = race(calls, plan.repeats, device)
    for name, subject in subjects.items():
        peaks = {which: peak_bytes(calls[name, which], device) for which in ("few", "all")}
        result[name] = {
            "step_seconds": act[name] / ACTING_STEPS,
            "imagined_rows_per_second": plan.starts * IMAGINED_STEPS / imagine[name],
            "state_bytes": subject.state_bytes,
            "carry_bytes": subject.carry_bytes,
            "emit": {
                "rows": batch * length,
                "bytes": batch * length * subject.carry_bytes,
                "extra_seconds": emit[name, "all"] - emit[name, "few"],
                "extra_peak_bytes": peaks["all"] - peaks["few"],
            },
        }
    return result


def _growth(
    subjects: dict[str, Subject], points: list[dict[str, Any]], plan: SpeedPlan
) -> list[dict[str, Any]]:
    """Exponents of time against T by row, B and part.

    `exponent` is fitted to all T; short sequences are mostly overhead, so `at_the_end`, between the
    two longest T alone, is the stricter one.
    """
    result = []
    for name, batch, part in product(subjects, sorted(plan.batches), PARTS):
        some = [p for p in points if (p["model"], p["batch"]) == (name, batch) and p[part]]
        lengths, times = [p["length"] for p in some], [p[part] for p in some]
        if len(some) > 1:
            fits = {"exponent": growth(lengths, times), "lengths": lengths}
            fits["at_the_end"] = growth(lengths[-2:], times[-2:])
            result.append({"model": name, "batch": batch, "part": part, **fits})
    return result
