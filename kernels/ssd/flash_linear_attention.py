"""The state-space dual form by flash-linear-attention's simple gated linear attention (Triton).

For `worldmodels bench kernels` alone: no dispatch chooses it. That operator, with a scale of 1, is

    S_t = exp(g_t) S_{t-1} + k_t v_t^T;   o_t = S_t^T q_t

so that q is C and k is B, both repeated for the heads of their group, v is d x, g is d A and S is
the transpose of our h. The discretisation, the skip and the gate are left to torch.
"""

import torch.nn.functional as F
from torch import Tensor

from worldmodels.kernels import libraries
from worldmodels.kernels.sequence import Emit

_MODULE = "fla.ops.simple_gla"
_INSTALL = "fla-core"


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk: int,
    reset: Tensor | None,
    initial_state: Tensor | None,
    emit: Emit,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `worldmodels.kernels.ssd.ssd`; the library chooses the chunk. v takes the dtype of x.

    One step goes by its recurrent kernel, as its own layers decode. The library cuts a sequence
    where packed ones meet, whose number it needs on the host, and a decay of zero is not exact
    there (a difference of sums of logarithms): resets are refused. Raises ValueError for what it
    cannot do and ImportError where it is missing.
    """
    given = {"reset": reset, "emit": emit}
    reasons = [f"takes no {name}" for name, value in given.items() if value is not None]
    libraries.refuse("ssd", "flash_linear_attention", x, reasons)
    kernel = "fused_recurrent_simple_gla" if x.shape[1] == 1 else "chunk_simple_gla"
    attend = libraries.function("ssd", _MODULE, kernel, _INSTALL)
    heads = x.shape[2]
    d = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    if dt_softplus:
        d = F.softplus(d)
    key, query = (pair.to(x.dtype).repeat_interleave(heads // B.shape[2], 2) for pair in (B, C))
    y, last = attend(
        query,
        key,
        (d[..., None] * x).to(x.dtype),
        g=d * A.float(),
        scale=1.0,
        initial_state=None if initial_state is None else initial_state.float().mT,
        output_final_state=True,
    )
    if D is not None:
        y = y + x * D.reshape(heads, -1)
    if z is not None:
        y = y * F.silu(z)
    return y.to(x.dtype), last.mT, None
