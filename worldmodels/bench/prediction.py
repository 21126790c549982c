"""What backbones have learnt of one recorded replay after an equal number of updates.

Every model of one seed sees the same windows in the same order, with the same optimiser; only the
world model learns, there is no policy. The windows start from zero states (carry `zero`), because
stored states would cost some backbones far more than others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch

from worldmodels.bench.open_loop import QUANTITIES, Errors, Truth, constant, copied, imagined
from worldmodels.bench.recording import HELD_OUT, LANES, Recording
from worldmodels.bench.sizing import Sized
from worldmodels.bench.subject import fewest_starts
from worldmodels.config import Config
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.objects import Batch
from worldmodels.optimizer import build_optimizer
from worldmodels.replay import Replay
from worldmodels.runtime.seeding import stream_seed
from worldmodels.world_model import WorldModel

CHUNK = 64
"""Windows that are tested at once."""


@dataclass(frozen=True)
class Exam:
    """How long each model learns, and how it is tested."""

    updates: int
    context: int
    """Rows observed."""
    horizon: int
    """Rows imagined after them."""
    windows: int
    """Held-out windows."""
    samples: int
    """Futures imagined per window."""
    seeds: tuple[int, ...]


def bench_prediction(
    rows: Sequence[Sized], recording: Recording, exam: Exam, fabric: Any, say: Callable[[str], None]
) -> dict[str, Any]:
    """Errors against depth by row of the comparison: medians over seeds, and every seed's own."""
    tests = held_out(rows[0].config, recording, exam, fabric.device)
    baselines, shown = _baselines(tests, recording, exam)
    by_row = {}
    for sized in rows:
        results = []
        for seed in exam.seeds:
            say(f"{sized.name}, seed {seed}: {exam.updates} updates")
            results.append(_one(sized, recording, exam, tests, seed, fabric))
        by_row[sized.name] = {
            **{name: _medians([result[name] for result in results]) for name in QUANTITIES},
            "seconds_per_update": median(result["seconds_per_update"] for result in results),
            "seeds": results,
        }
    options = rows[0].config.replay
    return {
        "recording": {
            **recording.about,
            "rows": recording.rows * LANES,
            "held_out_lanes": HELD_OUT,
        },
        "updates": exam.updates,
        "batch": [options.batch_size, options.batch_length],
        "context": exam.context,
        "samples": exam.samples,
        "seeds": list(exam.seeds),
        "windows": shown,
        "baselines": baselines,
        "models": by_row,
    }


def held_out(config: Config, recording: Recording, exam: Exam, device: torch.device) -> list[Batch]:
    """The same windows for every model."""
    length = exam.context + exam.horizon
    longest = max(length, config.replay.batch_length)
    if recording.rows < 2 * longest:
        raise UserError(
            f"the recording has {recording.rows} rows in each of {LANES} lanes, too few for "
            f"windows of {longest}; raise --rows, or lower --context and --horizon"
        )
    options = replace(_options(config, recording), batch_length=length)
    replay = recording.replay(range(LANES - HELD_OUT, LANES), options, stream_seed(0, "held out"))
    sizes = [CHUNK] * (exam.windows // CHUNK) + [exam.windows % CHUNK]
    return [replay.sample(size, length, "imagine").to(device) for size in sizes if size]


def _baselines(
    tests: list[Batch], recording: Recording, exam: Exam
) -> tuple[dict[str, Any], list[int]]:
    """What predicting without a model gives, and the number of windows left at each depth."""
    means, copies, averages = recording.means(), Errors(exam.horizon), Errors(exam.horizon)
    for batch in tests:
        truth = Truth(batch, exam.context)
        copied(truth, copies)
        constant(truth, means, averages)
    shown = [int(count) for count in averages.count["reward"].tolist()]
    return {"copy of the last row": copies.mean(), "mean of all rows": averages.mean()}, shown


def _one(
    sized: Sized, recording: Recording, exam: Exam, tests: list[Batch], seed: int, fabric: Any
) -> dict[str, Any]:
    """Learn and test one model of one seed."""
    torch.manual_seed(stream_seed(seed, "torch"))
    config = sized.config
    model = cast(WorldModel, build_models(config, recording.spec)[0])
    model.discount = 1.0  # the continue head is to learn how probable it is to go on
    lanes, options = range(LANES - HELD_OUT), _options(config, recording)
    replay = recording.replay(lanes, options, stream_seed(seed, "batches"))
    elapsed = learn(model, replay, config, exam.updates, fabric)
    torch.manual_seed(stream_seed(seed, "futures"))
    errors = Errors(exam.horizon)
    with fabric.autocast():
        for batch in tests:
            imagined(model, Truth(batch, exam.context), exam.samples, errors)
    return {**errors.mean(), "seconds_per_update": elapsed / exam.updates}


def learn(model: WorldModel, replay: Replay, config: Config, updates: int, fabric: Any) -> float:
    """`updates` updates of the world model alone; returns the seconds that they took."""
    options, optimizer = config.replay, build_optimizer(config.optimizer, [model])
    module, optimizer = fabric.setup_module(model), fabric.setup_optimizers(optimizer)
    # Nothing is imagined while it learns.
    start = fewest_starts(model.dynamics.sequential, options.batch_length, fabric.device)
    began = perf_counter()
    for _ in range(updates):
        batch = replay.sample(options.batch_size, options.batch_length).to(fabric.device)
        losses, _ = module(batch, start)
        weighted = [losses[name].mean() * weight for name, weight in model.weights().items()]
        optimizer.zero_grad()
        fabric.backward(torch.stack(weighted).sum())
        optimizer.step()
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return perf_counter() - began


def _options(config: Config, recording: Recording) -> Any:
    """The run's replay, twice as large as the recording, uniform, without stored states."""
    return replace(config.replay, capacity=2 * recording.rows * LANES, carry="zero", online=False)


def _medians(curves: list[list[float | None]]) -> list[float | None]:
    """The median over seeds at each depth; the windows are the same, so None is None in all."""
    depths = zip(*curves, strict=True)
    return [None if values[0] is None else median(values) for values in depths]  # type: ignore
