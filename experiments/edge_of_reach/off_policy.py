"""The same lattice off-policy: soft Q-learning on a replay of short rollouts in true dynamics.

One-step targets have no part of a return in them that is real, so that an error at the edge comes
back multiplied (reference section 2.8, trainer B). Letters: V critics, N rows, A = 9 actions.
"""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from truth import Lattice

DISCOUNT, TEMPERATURE, RANDOM = 0.99, 0.02, 0.05
LENGTH, ROLLOUTS, KEPT, FRESH_EVERY, BATCH = 10, 64, 50, 20, 128
RATE, SLOW = 1e-3, 0.05
BOUND = 0.5 / (1 - DISCOUNT)
"""No policy within reach is worth more: 0.5 a step for ever."""
WORST = -60.0
"""About what the edge is worth to a policy that stays there; what `patch` says of it."""


@dataclass(frozen=True)
class Method:
    """What differs between the off-policy runs."""

    critics: int = 1
    prior: float = 0.0
    """Size of the frozen random function in each critic: its deviation inside."""
    patch: bool = False
    """Whether targets at the edge bootstrap from WORST."""


class Critics(nn.Module):
    """V networks of 2 x 64, each with a frozen random one beside it.

    inside: features [C, 2] over which every output of a prior has mean 0 and deviation 1.
    """

    def __init__(self, method: Method, inside: Tensor):
        super().__init__()
        self.method = method
        self.learned = nn.ModuleList(_network() for _ in range(method.critics))
        priors = [_standardised(_network(), inside) for _ in range(method.critics)]
        self.priors = nn.ModuleList(priors).requires_grad_(False)

    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, 2] -> [V, N, A]."""
        learned = torch.stack([network(feature) for network in self.learned])
        if not self.method.prior:
            return learned
        return learned + self.method.prior * torch.stack([prior(feature) for prior in self.priors])


def _network() -> nn.Sequential:
    hidden = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(64, 9))


@torch.no_grad()
def _standardised(network: nn.Sequential, inside: Tensor) -> nn.Sequential:
    spread, mean = torch.std_mean(network(inside), 0)
    last = cast(nn.Linear, network[-1])
    last.weight /= spread.unsqueeze(1)
    last.bias.sub_(mean).div_(spread)
    return network


def policy_of(q: Tensor) -> Tensor:
    """q [V, N, A] -> probabilities [N, A] of the soft-greedy policy on the least critic."""
    return (q.amin(0) / TEMPERATURE).softmax(-1)


class Run:
    """Critics, their slow copies, and the newest rollouts."""

    def __init__(self, method: Method, lattice: Lattice, seed: int):
        torch.manual_seed(seed)
        self.method, self.lattice = method, lattice
        self.feature = lattice.place / 10
        cells = torch.arange(len(lattice.pay))
        inside = self.feature[lattice.distance(cells) < lattice.config.edge]
        self.critics = Critics(method, inside)
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.critics.learned.parameters(), lr=RATE)
        self.rollouts: list[tuple[Tensor, Tensor]] = []
        self.updates = 0

    @torch.no_grad()
    def policy(self) -> Tensor:
        """Probabilities [C, A] in every cell."""
        return policy_of(self.critics(self.feature))

    @torch.no_grad()
    def roll(self) -> None:
        """ROLLOUTS more from the centre: cells [L + 1, R] and actions [L, R]."""
        policy = (1 - RANDOM) * self.policy() + RANDOM / 9
        cells, actions = [torch.full((ROLLOUTS,), self.lattice.start)], []
        for _ in range(LENGTH):
            actions.append(policy[cells[-1]].multinomial(1).squeeze(1))
            cells.append(self.lattice.after[cells[-1], actions[-1]])
        self.rollouts = [*self.rollouts, (torch.stack(cells), torch.stack(actions))][-KEPT:]

    def update(self) -> None:
        """One step on a batch, rollouts refreshed now and then."""
        if self.updates % FRESH_EVERY == 0:
            self.roll()
        self.updates += 1
        here, action, there = self.draw()
        chosen = self.critics(self.feature[here])[:, torch.arange(BATCH), action]
        loss = (chosen - self.target(here, there)).square().mean(1).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        pairs = zip(self.slow.learned.parameters(), self.critics.learned.parameters(), strict=True)
        for slow, fast in pairs:
            slow.data.lerp_(fast.data, SLOW)

    @torch.no_grad()
    def target(self, here: Tensor, there: Tensor) -> Tensor:
        """Cells [N] and next cells [N] -> f(s) + gamma (sum_a pi (min Q)(s', a) + T entropy)."""
        q = self.slow(self.feature[there])
        policy = policy_of(q)
        entropy = -(policy * policy.clamp(min=1e-12).log()).sum(-1)
        value = (policy * q.amin(0)).sum(-1) + TEMPERATURE * entropy
        if self.method.patch:
            value = torch.where(self.lattice.at_edge(there), WORST, value)
        return self.lattice.pay[here] + DISCOUNT * value

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, actions and next cells [BATCH], evenly from the rollouts held."""
        cells = torch.stack([rollout for rollout, _ in self.rollouts])
        actions = torch.stack([chosen for _, chosen in self.rollouts])
        k = torch.randint(len(cells), (BATCH,))
        t, r = torch.randint(LENGTH, (BATCH,)), torch.randint(ROLLOUTS, (BATCH,))
        return cells[k, t, r], actions[k, t, r], cells[k, t + 1, r]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Predicted and true value at the start, the largest at the edge, and what is replayed."""
        lattice, policy = self.lattice, self.policy()
        q = self.critics(self.feature)
        truth = lattice.values(policy, DISCOUNT, 1500, torch.zeros(len(lattice.pay)))
        edge = lattice.distance(torch.arange(len(truth))) == lattice.config.edge
        ends = torch.stack([cells[1:] for cells, _ in self.rollouts])
        return {
            "return": lattice.footprint(policy)["return"],
            "value_start": float((policy * q.amin(0)).sum(-1)[lattice.start]),
            "true_start": float(truth[lattice.start]),
            "max_edge": float(q.amin(0)[edge].max()),
            "edge": float(lattice.at_edge(ends).float().mean()),
        }
