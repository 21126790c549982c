"""What a policy on the lattice is really worth: exact sums over all cells, no sampling.

Letters: C cells, A = 9 actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.envs.reach import ReachDynamics
from worldmodels.envs.reach_config import ReachConfig

STEPS = 30


@dataclass
class Lattice:
    """Every cell within the walls, where each action leads and what leaving a cell pays."""

    config: ReachConfig

    def __post_init__(self):
        dynamics = ReachDynamics(self.config)
        line = torch.arange(-dynamics.wall, dynamics.wall + 1.0)
        self.side = len(line)
        self.place = torch.cartesian_prod(line, line)  # [C, 2]
        self.feature = torch.cat(
            [self.place / 10, torch.ones(len(self.place), 1)], 1
        )  # as TrueDynamics gives it
        self.pay = dynamics.pay(self.place.unbind(1)).float()  # [C]
        moves = [
            torch.stack(dynamics.step(self.place.unbind(1), torch.tensor(a))[0], 1)
            for a in range(9)
        ]
        self.after = torch.stack([self.cell(place) for place in moves], 1)  # [C, A]
        self.start = int(self.cell(torch.zeros(2)))

    def cell(self, place: Tensor) -> Tensor:
        """(x, y) [..., 2] -> its number [...]."""
        x, y = (place + (self.side - 1) / 2).round().long().unbind(-1)
        return x * self.side + y

    def cell_of(self, feature: Tensor) -> Tensor:
        """(x / 10, y / 10) [..., 2] -> the cell's number [...]."""
        return self.cell(feature[..., :2] * 10)

    def distance(self, cell: Tensor) -> Tensor:
        """m = max(|x|, |y|) of cells [...]."""
        return self.place[cell].abs().amax(-1)

    def at_edge(self, cell: Tensor) -> Tensor:
        """Whether m >= K: exactly the cells that are no critic input (tests/experiments)."""
        return self.distance(cell) >= self.config.edge

    def values(self, policy: Tensor, discount: float, sweeps: int, start: Tensor) -> Tensor:
        """Value [C] of `policy` [C, A]: `sweeps` of policy evaluation from `start` [C]."""
        value = start
        for _ in range(sweeps):
            value = self.pay + discount * (policy * value[self.after]).sum(1)
        return value

    def visits(self, policy: Tensor) -> Tensor:
        """Expected visits [C] of an episode's 30 steps: the cells that are left, and paid."""
        here, total = torch.zeros(len(self.pay)), torch.zeros(len(self.pay))
        here[self.start] = 1.0
        for _ in range(STEPS):
            total += here
            here = torch.zeros_like(here).index_add_(
                0, self.after.flatten(), (here.unsqueeze(1) * policy).flatten()
            )
        return total

    def footprint(self, policy: Tensor) -> dict:
        """The return of an episode, and where it was spent."""
        visits = self.visits(policy)
        cells = (visits > 0.005).nonzero().flatten()
        return {
            "return": float((visits * self.pay).sum()),
            "beyond": float(visits[self.at_edge(torch.arange(len(visits)))].sum() / STEPS),
            "visits": [
                [int(x), int(y), round(float(v), 3)]
                for (x, y), v in zip(self.place[cells].tolist(), visits[cells], strict=True)
            ],
        }
