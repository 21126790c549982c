"""The Mamba layer (S6): Gu and Dao 2023, arXiv 2312.00752, algorithm 2 and section 3.4.

Names, shapes and initial values of the parameters are those of mamba-ssm's `Mamba`, so that its
`state_dict` loads here. Letters: B sequences, T rows, D width, I inner width, N state size, W width
of the convolution, R rank of delta.
"""

import math

import torch
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, State
from worldmodels.backbones.configs import MambaOptions
from worldmodels.backbones.layers import check_sizes
from worldmodels.kernels.causal_conv import causal_conv, windows
from worldmodels.kernels.selective_scan import selective_scan

DELTA_RANGE = (1e-3, 1e-1)
"""Time steps are drawn log-uniformly from here at initialisation."""
DELTA_FLOOR = 1e-4


class Mamba(Backbone):
    """[..., D] -> [..., D]; the state is the convolution's last W - 1 inputs and the SSM's h."""

    Config = MambaOptions

    def __init__(self, config: MambaOptions, input_size: int):
        check_sizes(config, state=1, expand=1, conv=2)
        super().__init__(config, input_size, input_size)
        inner, self.rank = config.expand * input_size, math.ceil(input_size / 16)
        self.inner, self.states = inner, config.state
        self.in_proj = nn.Linear(input_size, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * config.state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        self.dt_proj.bias = nn.Parameter(initial_delta_bias(inner))
        rates = torch.arange(1, config.state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, input_size, bias=False)

    def state_spec(self) -> dict[str, LeafSpec]:
        """`conv` [W - 1, I] raw inputs and `ssm` [I, N]."""
        return {
            "conv": LeafSpec((self.config.conv - 1, self.inner)),
            "ssm": LeafSpec((self.inner, self.states)),
        }

    def sequence(
        self, u: Tensor, state: State, reset: Tensor, emit: Emit | None = None
    ) -> tuple[Tensor, State, State | None]:
        """As the base class; one scan over the window."""
        x, gate = self.in_proj(u).chunk(2, -1)
        conved, window = causal_conv(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            "silu",
            reset=reset,
            initial_window=state["conv"],
        )
        delta, into, out_of = self.x_proj(conved).split([self.rank, self.states, self.states], -1)
        y, ssm, emitted = selective_scan(
            conved,
            nn.functional.linear(delta, self.dt_proj.weight),
            -self.A_log.exp(),
            into,
            out_of,
            self.D,
            gate,
            self.dt_proj.bias,
            delta_softplus=True,
            reset=reset,
            initial_state=state["ssm"],
            emit=emit,
        )
        last = State({"conv": window, "ssm": ssm})
        h = self.out_proj(y)
        if emitted is None:
            return h, last, None
        cut = windows(x, self.config.conv, reset=reset, initial_window=state["conv"], emit=emit)
        return h, last, State({"conv": cut, "ssm": emitted})


def initial_delta_bias(size: int) -> Tensor:
    """[size]: softplus of it is log-uniform in `DELTA_RANGE`, at least `DELTA_FLOOR`."""
    low, high = (math.log(bound) for bound in DELTA_RANGE)
    delta = torch.exp(torch.rand(size) * (high - low) + low).clamp(min=DELTA_FLOOR)
    return delta + torch.log(-torch.expm1(-delta))
