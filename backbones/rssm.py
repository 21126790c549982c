"""The block-diagonal GRU of DreamerV3's recurrent state-space model (arXiv 2301.04104, 2025 form).

Letters: N rows, D width of h (`deter`), U width of a branch (`hidden`), G blocks.
"""

import torch
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State, gather_rows
from worldmodels.backbones.configs import RSSMConfig
from worldmodels.backbones.layers import BlockLinear, Linear, NormSiLU, block_matmul, check_sizes


class RSSM(Backbone):
    """h' = u * c + (1 - u) * h with block-diagonal hidden layers and gates.

    Every block reads its own slice of h and all of the input: x = [branch(h), u].
    """

    Config = RSSMConfig
    output_leaf = "h"

    def __init__(self, config: RSSMConfig, input_size: int):
        check_sizes(config, blocks=1, hidden=1, layers=1, deter=config.blocks)
        super().__init__(config, input_size, config.deter)
        width, blocks, hidden = config.deter, config.blocks, config.hidden
        self.blocks = blocks
        self.from_h = Linear(width, hidden)
        self.from_h_norm = NormSiLU(hidden)
        # Input per block: D / G of h, U of the branch of h, and the whole of u.
        self.mix = BlockLinear(width + (hidden + input_size) * blocks, width, blocks)
        self.mix_norm = NormSiLU(width)
        self.hidden = nn.Sequential()
        for _ in range(config.layers - 1):
            self.hidden.extend([BlockLinear(width, width, blocks), NormSiLU(width)])
        self.gates = BlockLinear(width, 3 * width, blocks)

    def state_spec(self) -> dict[str, LeafSpec]:
        """One leaf: h."""
        return {"h": LeafSpec((self.output_size,))}

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """u [N, D_in] -> h [N, D], state."""
        return self._recur(self._project(u), self.apply_reset(state, reset)["h"])

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; what depends on u alone is computed for all T at once."""
        projected, outputs = self._project(u), []
        for t in range(u.shape[1]):
            h, state = self._recur(projected[:, t], self.apply_reset(state, reset[:, t])["h"])
            outputs.append(h)
        h = torch.stack(outputs, 1)  # [B, T, D]: the state itself
        if emit is None:
            return h, state, None
        return h, state, State({"h": gather_rows(h, emit)})

    def _project(self, u: Tensor) -> Tensor:
        """The part of the first block layer that reads u [..., D_in] -> [..., D]."""
        weight = self.mix.weight[-self.input_size :]
        return u @ weight + self.mix.bias

    def _recur(self, projected: Tensor, h: Tensor) -> tuple[Tensor, State]:
        """One step from `_project`'s output [N, D] and h [N, D]."""
        own, branch, _ = self.mix.weight.split(
            [h.shape[1] // self.blocks, self.config.hidden, self.input_size]
        )
        x = self.from_h_norm(self.from_h(h))
        x = self.mix_norm(projected + x @ branch + block_matmul(h, own, self.blocks))
        x = self.hidden(x)
        h = gru_update(self.gates(x), h, self.blocks)
        return h, State({"h": h})


def gru_update(gates: Tensor, h: Tensor, blocks: int) -> Tensor:
    """gates [N, 3 D], split within each block into reset, candidate, update; h [N, D] -> h'."""
    shape = (h.shape[0], blocks, -1)
    reset, candidate, update = gates.view(h.shape[0], blocks, 3, -1).to(h.dtype).unbind(2)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(h.view(shape), candidate, torch.sigmoid(update - 1)).flatten(1)
