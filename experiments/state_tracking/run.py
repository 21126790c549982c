"""What can the state of each backbone track? Command, result and reading: README.md beside this."""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from tasks import LAST, PROBES, Probe
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone
from worldmodels.registry import backbone_class, backbone_config
from worldmodels.runtime.memory import keep_freed_memory
from worldmodels.runtime.rundir import commit, describe_machine

HERE = Path(__file__).parent
STACK = {"width": 64, "layers": 2, "mlp": 2.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "gru": {"deter": 128},
    "rssm": {"deter": 128, "hidden": 64},
    "transformer": STACK,
    "mamba": STACK,
    "mamba2": STACK,
    "mamba3": STACK,
    "deltanet": STACK,
}
"""What differs from a backbone's own defaults."""
LEARNING_LENGTH, LENGTHS = 32, (32, 128, 512)
BATCH, LEARNING_RATE = 64, 2e-3
JUDGED = 512
"""Sequences behind an accuracy."""


class Reader(nn.Module):
    """A backbone with a linear head: u [B, T, D] -> logits [B, T, answers]."""

    def __init__(self, backbone: Backbone, answers: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.output_size, answers)

    def forward(self, u: Tensor) -> Tensor:
        reset = torch.zeros(u.shape[:2], dtype=torch.bool)
        h, _, _ = self.backbone.sequence(u, self.backbone.initial(u.shape[0]), reset)
        return self.head(h)


def learn(reader: Reader, probe: Probe, updates: int, generator: torch.Generator) -> None:
    """AdamW with a cosine schedule; every row with an answer counts."""
    optimiser = torch.optim.AdamW(reader.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        u, answer, asked = probe.draw(BATCH, LEARNING_LENGTH, generator)
        loss = F.cross_entropy(reader(u)[asked], answer[asked])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def accuracy(reader: Reader, probe: Probe, length: int, generator: torch.Generator) -> float:
    """Share of right answers in the last rows of sequences of that length."""
    right, total = 0, 0
    for _ in range(JUDGED // BATCH):
        u, answer, asked = probe.draw(BATCH, length, generator)
        asked[:, :-LAST] = False
        found = reader(u)[asked].argmax(-1)
        right, total = right + int((found == answer[asked]).sum()), total + int(asked.sum())
    return right / total


def run(name: str, probe_name: str, seed: int, updates: int) -> dict[str, Any]:
    """One training, judged at every length on draws that it never saw."""
    torch.manual_seed(seed)
    probe, began = PROBES[probe_name], time.perf_counter()
    config = replace(backbone_config(name), **OPTIONS.get(name, {}))
    reader = Reader(backbone_class(name)(config, probe.inputs), probe.answers)
    learn(reader, probe, updates, torch.Generator().manual_seed(seed))
    unseen = torch.Generator().manual_seed(10_000 + seed)
    return {
        "backbone": name,
        "probe": probe_name,
        "seed": seed,
        "parameters": sum(p.numel() for p in reader.backbone.parameters()),
        "state_bytes": reader.backbone.initial(1).nbytes_per_row,
        "accuracy": {str(n): accuracy(reader, probe, n, unseen) for n in LENGTHS},
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: the mean over seeds at every length, and the lowest seed where they differ."""
    probes = [probe for probe in PROBES if any(r["probe"] == probe for r in runs)]
    lines = [
        f"| backbone | parameters | state, bytes | {' | '.join(probes)} |",
        "|---" * (3 + len(probes)) + "|",
    ]
    for name in dict.fromkeys(r["backbone"] for r in runs):
        own = [r for r in runs if r["backbone"] == name]
        cells = [name, str(own[0]["parameters"]), str(own[0]["state_bytes"])]
        for probe in probes:
            scores = []
            for length in map(str, LENGTHS):
                found = [r["accuracy"][length] for r in own if r["probe"] == probe]
                spread = max(found, default=0) - min(found, default=0) > 0.05
                least = f" ({min(found):.2f})" if spread else ""
                scores.append(f"{mean(found):.2f}{least}" if found else "-")
            cells.append(" / ".join(scores))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """One panel a probe: accuracy over length, a line a backbone, the range of its seeds."""
    probes = [probe for probe in PROBES if any(r["probe"] == probe for r in runs)]
    figure, axes = plt.subplots(1, len(probes), figsize=(4.2 * len(probes), 3.6), squeeze=False)
    names = list(dict.fromkeys(r["backbone"] for r in runs))
    for axis, probe in zip(axes[0], probes, strict=True):
        for i, name in enumerate(names):
            own = [r["accuracy"] for r in runs if (r["backbone"], r["probe"]) == (name, probe)]
            if not own:
                continue
            by_length = [[scores[str(length)] for scores in own] for length in LENGTHS]
            middle = [mean(scores) for scores in by_length]
            # Shifted sideways, so that equal lines show beside each other.
            x = [length * 1.05 ** (i - len(names) / 2) for length in LENGTHS]
            below = [m - min(scores) for m, scores in zip(middle, by_length, strict=True)]
            above = [max(scores) - m for m, scores in zip(middle, by_length, strict=True)]
            axis.errorbar(x, middle, [below, above], marker="o", ms=4, label=name, color=f"C{i}")
        axis.axhline(1 / PROBES[probe].answers, color="grey", ls=":", lw=1)
        axis.set(title=probe, xscale="log", ylim=(0, 1.05), xlabel="rows (learned at 32)")
        axis.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=list(PROBES))
    parser.add_argument("--backbones", nargs="+", default=list(OPTIONS))
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder of results.json and the plot"
    )
    options = parser.parse_args()
    keep_freed_memory()
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "updates": options.updates,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in options.seeds:
        for probe in options.probes:
            for name in options.backbones:
                runs.append(run(name, probe, seed, options.updates))
                scores = " ".join(f"{score:.3f}" for score in runs[-1]["accuracy"].values())
                print(f"{seed} {probe} {name}: {scores} ({runs[-1]['seconds']} s)", flush=True)
                results = json.dumps({**header, "runs": runs}, indent=1)
                (options.out / "results.json").write_text(results + "\n")
    print(table(runs))
    plot(runs, options.out / "accuracy.png")


if __name__ == "__main__":
    main()
