"""The ring of imagined transitions: the newest `capacity`, in the tensors of a module.

Nothing is read back from the device and shapes are static, as everywhere in an update. The ring is
in the checkpoint, so that a resumed run draws what it would have drawn.
"""

import torch
from torch import Tensor, nn

from worldmodels.control.transitions import Transitions


class Ring(nn.Module):
    """Transitions with features of `feature` numbers and actions of `action`."""

    def __init__(self, capacity: int, feature: int, action: int):
        super().__init__()
        self.capacity, self.feature = capacity, feature
        self.rows: Tensor
        self.cursor: Tensor
        self.size: Tensor
        width = 2 * feature + action + 2
        # What must not be kept is written to a spare row at the end.
        self.register_buffer("rows", torch.zeros(capacity + 1, width))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("size", torch.zeros((), dtype=torch.int64))

    @property
    def nbytes(self) -> int:
        """Memory of the rows, and their share of a checkpoint."""
        return self.rows.numel() * self.rows.element_size()

    @torch.no_grad()
    def add(self, transitions: Transitions) -> None:
        """Those with a weight replace the oldest; at most `capacity` of them."""
        kept = transitions.weight > 0
        count = kept.cumsum(0)
        place = torch.where(kept, (self.cursor + count - 1) % self.capacity, self.capacity)
        self.rows.index_copy_(0, place, transitions.pack())
        self.cursor.copy_((self.cursor + count[-1]) % self.capacity)
        self.size.copy_((self.size + count[-1]).clamp(max=self.capacity))

    @torch.no_grad()
    def sample(self, count: int) -> Transitions:
        """`count` uniform draws with replacement; their weight is 0 while the ring is empty."""
        share = torch.rand(count, device=self.rows.device)
        newest = (self.size - 1).clamp(min=0)
        place = (share * self.size).long().minimum(newest)  # the product may round up to the size
        weight = (self.size > 0).float().expand(count)
        return Transitions.unpack(self.rows[place], weight, self.feature)
