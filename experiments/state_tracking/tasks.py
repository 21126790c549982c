"""Three probes of what a state can hold; each row of time is a one-hot input and one question.

A draw gives u [B, T, D], answers int64 [B, T] and asked bool [B, T]. Letters: B sequences, T rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SYMBOLS = 8
"""Keys, values and cues."""
LAST = 16
"""Rows at the end whose answers count as a result."""


@dataclass(frozen=True)
class Probe:
    draw: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor, Tensor]]
    inputs: int
    answers: int


def parity(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random bits; the answer is whether an odd number of them was 1 so far."""
    bits = torch.randint(2, (batch, length), generator=generator)
    return F.one_hot(bits, 2).float(), bits.cumsum(1) % 2, torch.ones_like(bits).bool()


def overwrite(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Every row writes a value under a key, then asks what the last one under some key was."""
    key, value, query = torch.randint(SYMBOLS, (3, batch, length), generator=generator)
    memory = torch.full((batch, SYMBOLS), -1)
    answers = []
    for t in range(length):
        memory = memory.scatter(1, key[:, t : t + 1], value[:, t : t + 1])
        answers.append(memory.gather(1, query[:, t : t + 1]))
    answer = torch.cat(answers, 1)
    u = torch.cat([F.one_hot(x, SYMBOLS).float() for x in (key, value, query)], -1)
    return u, answer.clamp(min=0), answer >= 0


def retention(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A cue in the first row, then noise of the same alphabet; the last row asks for the cue."""
    symbol = torch.randint(SYMBOLS, (batch, length), generator=generator)
    first, last = torch.zeros(batch, length, 1), torch.zeros(batch, length, 1)
    first[:, 0], last[:, -1] = 1, 1
    u = torch.cat([F.one_hot(symbol, SYMBOLS).float(), first, last], -1)
    return u, symbol[:, :1].expand(batch, length), last.squeeze(-1).bool()


PROBES = {
    "parity": Probe(parity, 2, 2),
    "overwrite": Probe(overwrite, 3 * SYMBOLS, SYMBOLS),
    "retention": Probe(retention, SYMBOLS + 2, SYMBOLS),
}
