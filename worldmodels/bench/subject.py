"""The parts of a world model that a backbone decides, as functions to be timed.

Encoder, decoder and heads are the same for every backbone, so they are left out: `observe` starts
at the tokens. Letters: B sequences, T rows of time, M imagination starts, L imagined steps,
E token width, A action size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from worldmodels.backbones.base import Stratified
from worldmodels.bench.sizing import Sized
from worldmodels.envs.spec import EnvSpec
from worldmodels.learner import build_models
from worldmodels.objects import Carry
from worldmodels.world_model import WorldModel, all_rows

ACTING_STEPS = 32
"""Steps of one stream that are timed together."""
IMAGINED_STEPS = 15
"""L, the steps from every start that are timed together."""
CONTEXT = 64
"""Rows behind the states that acting and imagination start from, so that no memory is empty."""
Call = Callable[[], Any]


def fewest_starts(sequential: bool, length: int, device: torch.device) -> Tensor | Stratified:
    """One start, or, with posterior `hx`, none: there, an index copies all states first."""
    if sequential:
        return Stratified(torch.zeros(length, 0, dtype=torch.int64, device=device))
    return torch.zeros(1, 2, dtype=torch.int64, device=device)


class Subject:
    """One sized world model's dynamics on a device, on random inputs."""

    def __init__(
        self,
        sized: Sized,
        spec: EnvSpec,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
    ):
        torch.manual_seed(0)
        model = cast(WorldModel, build_models(sized.config, spec)[0]).to(device)
        self.device, self.autocast = device, autocast
        self.dynamics, self.backbone = model.dynamics, model.dynamics.backbone
        self.sizes = model.encoder.output_size, spec.action.size

    @property
    def sequential(self) -> bool:
        """Posterior `hx`: one row after the other."""
        return self.dynamics.sequential

    @property
    def carry_bytes(self) -> int:
        """Bytes of one model state: h, z and the backbone's state."""
        return self.dynamics.initial(1).nbytes_per_row

    @property
    def state_bytes(self) -> int:
        """Bytes of one state of the backbone."""
        return self.backbone.initial(1).nbytes_per_row

    def sequence(self, batch: int, length: int) -> Call:
        """Forward and backward of the backbone alone over u [B, T, D]."""
        u = self._random(batch, length, self.backbone.input_size).requires_grad_()
        reset = self._no_reset(batch, length)
        gradient = self._random(batch, length, self.backbone.output_size)

        def call() -> None:
            with self.autocast():
                h, _, _ = self.backbone.sequence(u, self.backbone.initial(batch), reset)
            self._backward([h], [gradient.to(h.dtype)])

        return call

    def observe(self, batch: int, length: int, all_starts: bool = False) -> Call:
        """Forward and backward of posterior, backbone and prior over tokens [B, T, E].

        It hands out all B * T states as imagination starts, or as few as it can.
        """
        inputs = self._inputs(batch, length)
        rows = "all" if all_starts else fewest_starts(self.sequential, length, self.device)

        def call() -> Carry:
            with self.autocast():
                seen = self.dynamics.observe(*inputs, None, rows)
            outputs = [seen.h, seen.z, seen.post_logits, seen.prior_logits]
            start = seen.start.detach()
            self._backward(outputs, [torch.ones_like(output) for output in outputs])
            return start

        return call

    def act(self) -> Call:
        """`ACTING_STEPS` steps of one stream from token to model state."""
        tokens, action, reset = self._inputs(1, ACTING_STEPS)
        carry = self._starts(1)

        @torch.no_grad()
        def call() -> None:
            state = carry
            with self.autocast():
                for t in range(ACTING_STEPS):
                    state = self.dynamics.observe_step(
                        state, action[:, t], tokens[:, t], reset[:, t], None
                    )

        return call

    def imagine(self, starts: int) -> Call:
        """`IMAGINED_STEPS` steps of M = starts model states under the prior."""
        _, action, _ = self._inputs(starts, IMAGINED_STEPS)
        carry = self._starts(starts)

        @torch.no_grad()
        def call() -> None:
            state = carry
            with self.autocast():
                for t in range(IMAGINED_STEPS):
                    state = self.dynamics.imagine_step(state, action[:, t], None)

        return call

    @torch.no_grad()
    def _starts(self, count: int) -> Carry:
        """Model states after `CONTEXT` rows or more."""
        batch = min(count, 16)
        index = all_rows(batch, -(-count // batch), self.device)[:count]
        index[:, 1] += CONTEXT
        with self.autocast():
            length = int(index[:, 1].max()) + 1
            return self.dynamics.observe(*self._inputs(batch, length), None, index).start

    def _inputs(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [B, T, E], prev_action [B, T, A], reset [B, T]."""
        tokens, actions = self.sizes
        noise = self._random(batch, length, tokens), self._random(batch, length, actions)
        return *noise, self._no_reset(batch, length)

    def _random(self, *shape: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        return torch.randn(*shape, device=self.device, generator=generator)

    def _no_reset(self, batch: int, length: int) -> Tensor:
        return torch.zeros(batch, length, dtype=torch.bool, device=self.device)

    def _backward(self, outputs: list[Tensor], gradients: list[Tensor]) -> None:
        self.dynamics.zero_grad(set_to_none=True)
        torch.autograd.backward(outputs, gradients)
