"""A plain gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), by torch's own cell."""

from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, LeafSpec, State
from worldmodels.backbones.configs import GRUConfig
from worldmodels.backbones.layers import check_sizes


class GRU(Backbone):
    """torch's GRUCell on the input; `sequence` is the base class's loop."""

    Config = GRUConfig
    output_leaf = "h"

    def __init__(self, config: GRUConfig, input_size: int):
        check_sizes(config, deter=1)
        super().__init__(config, input_size, config.deter)
        self.cell = nn.GRUCell(input_size, config.deter)

    def state_spec(self) -> dict[str, LeafSpec]:
        """One leaf: h."""
        return {"h": LeafSpec((self.output_size,))}

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [N, D_in] -> h [N, D], state."""
        h = self.apply_reset(state, reset)["h"]
        h = self.cell(u, h).to(h.dtype)  # autocast on CUDA gives less
        return h, State({"h": h})
