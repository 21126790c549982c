"""What an environment offers whose rules are known: its own code, for numpy and torch arrays alike.

An environment that has it as `dynamics`, and whose observation is one vector, can be imagined in by
the world model `known` (worldmodels.true_dynamics). Letters: N states, F numbers in the vector.
"""

from abc import ABC, abstractmethod
from typing import Any

Arrays = tuple[Any, ...]
"""One array [N] (or one scalar) per coordinate, of numpy or of torch."""


class KnownDynamics(ABC):
    """Deterministic, and a function of what is observed.

    Use operators and methods that numpy and torch share (`abs`, `.clip`, `.round`, comparisons,
    and masks as factors instead of `where`).
    """

    @abstractmethod
    def state(self, vector: Arrays) -> Arrays:
        """The F numbers that are observed -> the state's coordinates."""

    @abstractmethod
    def observe(self, state: Arrays) -> Arrays:
        """The inverse of `state`."""

    @abstractmethod
    def step(self, state: Arrays, action: Any) -> tuple[Arrays, Any, Any]:
        """The state that `action` leads to, the reward on arriving there, and whether it goes on.

        A discrete action is an array of whole numbers [N], a continuous one a tuple of arrays [N]
        in [-1, 1]. The last is 0 where the new state is terminal, else 1; a number serves all.
        """
