"""The Mamba-2 layer (state-space duality): Dao and Gu 2024, arXiv 2405.21060, section 7.

Names, shapes and initial values of the parameters are those of mamba-ssm's `Mamba2`, so that its
`state_dict` loads here. Letters: B sequences, T rows, D width, I inner width, H heads, P head
width, G groups, N state size, W width of the convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State
from worldmodels.backbones.configs import Mamba2Options
from worldmodels.backbones.layers import check_sizes
from worldmodels.backbones.mamba import initial_delta_bias
from worldmodels.kernels.causal_conv import causal_conv, windows
from worldmodels.kernels.ssd import ssd

NORM_EPS = 1e-5


class GatedRMSNorm(nn.Module):
    """rms_norm(x * silu(gate)) * weight over the last axis, within G groups of it."""

    def __init__(self, size: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate [..., I] -> [..., I] in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        x = x.to(wide) * F.silu(gate.to(wide))
        grouped = x.unflatten(-1, (self.groups, -1))
        return F.rms_norm(grouped, grouped.shape[-1:], eps=NORM_EPS).flatten(-2) * self.weight


class Mamba2(Backbone):
    """[..., D] -> [..., D]; the state is the convolution's last W - 1 inputs and the SSM's h."""

    Config = Mamba2Options

    def __init__(self, config: Mamba2Options, input_size: int):
        check_sizes(config, heads=1, state=1, groups=1, expand=1, chunk=1, conv=2)
        inner, both = config.expand * input_size, 2 * config.groups * config.state
        if inner % config.heads:
            raise ValueError(f"inner width {inner} is no multiple of heads {config.heads}")
        if config.heads % config.groups:
            raise ValueError(f"heads {config.heads} is no multiple of groups {config.groups}")
        super().__init__(config, input_size, input_size)
        self.parts = (inner, inner + both, config.heads)
        self.inputs = (inner, both // 2, both // 2)
        self.in_proj = nn.Linear(input_size, sum(self.parts), bias=False)
        self.conv1d = nn.Conv1d(inner + both, inner + both, config.conv, groups=inner + both)
        self.dt_bias = nn.Parameter(initial_delta_bias(config.heads))
        self.A_log = nn.Parameter(torch.empty(config.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(config.heads))
        self.norm = GatedRMSNorm(inner, config.groups)
        self.out_proj = nn.Linear(inner, input_size, bias=False)

    def state_spec(self) -> dict[str, LeafSpec]:
        """`conv` [W - 1, I + 2 G N] raw inputs and `ssm` [H, P, N]."""
        heads, inner = self.config.heads, self.parts[0]
        return {
            "conv": LeafSpec((self.config.conv - 1, self.parts[1])),
            "ssm": LeafSpec((heads, inner // heads, self.config.state)),
        }

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; blocks of `chunk` rows as matrix products (see `kernels.ssd`)."""
        gate, raw, dt = self.in_proj(u).split(self.parts, -1)
        conved, window = causal_conv(
            raw,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            "silu",
            reset=reset,
            initial_window=state["conv"],
        )
        x, into, out_of = conved.split(self.inputs, -1)
        y, last, emitted = ssd(
            x.unflatten(-1, (self.config.heads, -1)),
            dt,
            -self.A_log.exp(),
            into.unflatten(-1, (self.config.groups, -1)),
            out_of.unflatten(-1, (self.config.groups, -1)),
            self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            chunk=self.config.chunk,
            reset=reset,
            initial_state=state["ssm"],
            emit=emit,
        )
        h = self.out_proj(self.norm(y.flatten(2), gate))
        last = State({"conv": window, "ssm": last})
        if emitted is None:
            return h, last, None
        cut = windows(raw, self.config.conv, reset=reset, initial_window=state["conv"], emit=emit)
        return h, last, State({"conv": cut, "ssm": emitted})
