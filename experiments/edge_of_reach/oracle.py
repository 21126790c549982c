"""The critic whose bootstraps at edge states alone are the truth (reference section 1.4)."""

from typing import Any

import torch
from torch import Tensor

from worldmodels.values.base import Estimate
from worldmodels.values.critics import Critics

SWEEPS = 20
"""Of policy evaluation per update, from the table of the update before."""


class OraclePatch(Critics):
    """One plain critic; beyond reach, returns bootstrap from the current policy's true value."""

    lattice: Any = None
    policy: Any = None
    """Set by `lattice.Run`: a value learner is not shown the policy."""

    def bootstrap(self, estimate: Estimate, feature: Tensor, span: Tensor) -> Tensor:
        """The values [M, L + 1], patched where they are of cells beyond reach."""
        table = getattr(self, "_table", torch.zeros(len(self.lattice.pay)))
        self._table = self.lattice.values(self.policy(), self.discount, SWEEPS, table)
        cells = self.lattice.cell_of(feature)
        return torch.where(self.lattice.at_edge(cells), self._table[cells], estimate.value)
