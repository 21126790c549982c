"""How far a state is from everything that the critic has learned at: 0 (known) to 1 (novel).

Ours, for the reach penalty. `exact` remembers every input (small tasks with few states), `rnd`
learns to foretell a random network at the inputs (Burda et al. 2018, arXiv 1810.12894), `knn` keeps
a memory of inputs. Letters: M starts, L imagined steps, N states, F feature width, K memories.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from worldmodels.values.configs import ValuesConfig
from worldmodels.values.nearest import nearest

DECAY = 0.99
"""Memory of the level from which on a state counts as novel."""
OUTPUTS = 32
"""Of the two networks of `rnd`."""
ASKED = 256
"""Memories of `knn` that its level is measured at in every update."""
TABLE, GRID = 2**22, 64.0
"""Cells of the table of `exact`; how many of its steps one unit of a feature has."""


class Novelty(nn.Module, ABC):
    """`observe` the critic's inputs of an update, then ask about the state after the last."""

    learns = False
    """Whether `loss` must be minimised."""

    @abstractmethod
    def observe(self, inputs: Tensor) -> None:
        """inputs [M, L, F], detached: the states that the critic learns at."""

    @abstractmethod
    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> [N] float32 in [0, 1]."""

    def loss(self, inputs: Tensor) -> Tensor:
        """inputs [M, L, F] -> [M, L]."""
        raise NotImplementedError


class Exact(Novelty):
    """1 for a state that was never an input, 0 otherwise, by a table of hashes.

    Features are rounded to 1/64. With n different inputs, a novel state is mistaken for a known one
    with probability n / 2^22; none is forgotten.
    """

    def __init__(self, feature_size: int):
        super().__init__()
        self.seen: Tensor
        self.factors: Tensor
        self.register_buffer("seen", torch.zeros(TABLE, dtype=torch.bool))
        odd = torch.randint(2**61, (feature_size,)) * 2 + 1
        self.register_buffer("factors", odd)

    @torch.no_grad()
    def observe(self, inputs: Tensor) -> None:
        """inputs [M, L, F]: known from now on."""
        self.seen[self._cell(inputs.flatten(0, 1))] = True

    @torch.no_grad()
    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> [N]."""
        return (~self.seen[self._cell(feature)]).float()

    def _cell(self, feature: Tensor) -> Tensor:
        """A multilinear hash of the rounded feature, int64 arithmetic modulo 2^64."""
        mixed = ((feature.float() * GRID).round().long() * self.factors).sum(-1)
        mixed = (mixed ^ (mixed >> 31)) * 0x2545F4914F6CDD1D
        return (mixed >> 40) & (TABLE - 1)


class _Levelled(Novelty):
    """clamp(raw / level - 1, 0, 1); the level follows the 95th percentile at known states."""

    def __init__(self):
        super().__init__()
        self.level: Tensor
        self.register_buffer("level", torch.zeros(()))

    @abstractmethod
    def raw(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> [N], at least 0."""

    def follow(self, known: Tensor) -> None:
        """known [N]: what `raw` comes to at states that are not novel."""
        high = known.sort().values[int(0.95 * (len(known) - 1))]
        self.level.copy_(torch.where(self.level > 0, torch.lerp(high, self.level, DECAY), high))

    @torch.no_grad()
    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> [N]."""
        return (self.raw(feature) / self.level.clamp(min=1e-12) - 1).clamp(0, 1)


class RandomDistillation(_Levelled):
    """The squared error of a network that learns, at inputs only, what a random network says.

    Its level is the error at the last inputs, one step before the states that are asked about. Both
    networks read the feature standardised over the inputs so far and have no normalisation inside,
    which would hide how large a feature is.
    """

    learns = True

    def __init__(self, feature_size: int, units: int):
        super().__init__()
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("square", torch.zeros(feature_size))
        self.target = _network(feature_size, units).requires_grad_(False)
        self.predictor = _network(feature_size, units)

    @torch.no_grad()
    def observe(self, inputs: Tensor) -> None:
        """The moments and the level follow the inputs [M, L, F]."""
        flat, rate = inputs.flatten(0, 1).float(), torch.where(self.level > 0, 1 - DECAY, 1.0)
        self.mean.lerp_(flat.mean(0), rate)
        self.square.lerp_(flat.square().mean(0), rate)
        self.follow(self.raw(inputs[:, -1]))

    def raw(self, feature: Tensor) -> Tensor:
        """feature [..., F] -> mean squared error [...] float32."""
        deviation = (self.square - self.mean.square()).clamp(min=1e-6).sqrt()
        x = (feature.float() - self.mean) / deviation
        return (self.predictor(x).float() - self.target(x).float()).square().mean(-1)

    def loss(self, inputs: Tensor) -> Tensor:
        """inputs [M, L, F] -> [M, L]."""
        return self.raw(inputs)


def _network(size: int, units: int) -> nn.Sequential:
    hidden = [nn.Linear(size, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(units, OUTPUTS))


class NearestNeighbour(_Levelled):
    """Euclidean distance to the nearest of K remembered inputs.

    One half of the memory is the newest inputs, the other a uniform sample of all since the
    beginning (a reservoir): were it the newest alone, a policy that has become narrow would find
    everything else novel. The level is how far those of the sample lie from their nearest others.
    """

    def __init__(self, feature_size: int, size: int):
        super().__init__()
        self.memory: Tensor
        self.written: Tensor
        self.register_buffer("memory", torch.zeros(size, feature_size))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))  # in each half

    @torch.no_grad()
    def observe(self, inputs: Tensor) -> None:
        """inputs [M, L, F]: an eighth of the newest half is replaced, of the sample its share."""
        half, device = len(self.memory) // 2, inputs.device
        number = half // 8
        flat = inputs.flatten(0, 1).float()
        newest, drawn = flat[torch.randint(len(flat), (2, number), device=device)]
        oldest = (self.written + torch.arange(number, device=device)) % half
        self.written.add_(number)
        self.memory[oldest] = newest
        share = half / self.written  # of all inputs drawn so far, in the sample
        random = torch.rand(half, device=device).argsort()[:number]
        place = half + torch.where(share < 1, random, oldest)
        enters = torch.rand(number, 1, device=device) < share
        self.memory[place] = torch.where(enters, drawn, self.memory[place])
        self.follow(self._apart())

    def raw(self, feature: Tensor) -> Tensor:
        """feature [N, F] -> distance [N]."""
        return nearest(feature, self.memory, self._unwritten())

    def _unwritten(self) -> Tensor:
        """Whether a place of the memory is empty yet, [K]."""
        place = torch.arange(len(self.memory), device=self.memory.device)
        return place % (len(self.memory) // 2) >= self.written

    def _apart(self) -> Tensor:
        """Distance of random memories, of the sample, to their nearest other, [ASKED]."""
        half = len(self.memory) // 2
        known = self.written.clamp(max=half)
        asked = half + (torch.rand(ASKED, device=self.memory.device) * known).long()
        absent = self._unwritten().repeat(ASKED, 1).scatter_(1, asked.unsqueeze(1), True)
        return nearest(self.memory[asked], self.memory, absent)


def make_novelty(values: ValuesConfig, feature_size: int, units: int) -> Novelty:
    """The novelty that `values.novelty` names."""
    if values.novelty == "exact":
        return Exact(feature_size)
    if values.novelty == "knn":
        return NearestNeighbour(feature_size, values.memory)
    return RandomDistillation(feature_size, units)
