"""The dynamics core: posterior and prior around any sequence backbone (design laws 2, 3 and 6).

Letters: N rows, B sequences, T rows of time, M starts, E token width, A action size, S groups,
C classes, F_h width of h, U `hidden`. Equations: DreamerV3 (arXiv 2301.04104), section 2 and 2025
form; u_t = mix(z_{t-1}, a_{t-1}), h_t = backbone(u_t), z_t ~ q(. | [h_t,] x_t), p(z_t | h_t).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodels.backbones.base import (
    Backbone,
    Emit,
    LeafSpec,
    State,
    Stratified,
    emit_states,
    gather_rows,
)
from worldmodels.backbones.layers import MLP, Linear, NormSiLU
from worldmodels.config import WorldModelConfig
from worldmodels.distributions import OneHot
from worldmodels.objects import Carry


@dataclass(frozen=True)
class Observed:
    """What a pass over a window gives; everything attached to the graph."""

    h: Tensor
    """[B, T, F_h]."""
    z: Tensor
    """[B, T, S, C], straight-through samples."""
    post_logits: Tensor
    """[B, T, S, C], raw."""
    prior_logits: Tensor
    """[B, T, S, C], raw."""
    start: Carry
    """The model states that `emit` asked for."""
    last: Carry
    """The model state after row T - 1."""


class Posterior(nn.Module):
    """q(z | [h,] x): logits [..., S * C] from tokens and, with `hx`, from h.

    The tokens' share of the first layer is linear, so it is computed for a whole window at once.
    """

    def __init__(self, h_size: int, token_size: int, config: WorldModelConfig):
        super().__init__()
        self.h_size = h_size
        self.first = Linear(h_size + token_size, config.hidden)
        self.norm = NormSiLU(config.hidden)
        self.rest = MLP(config.hidden, config.hidden, config.posterior_layers - 1)
        self.output = Linear(config.hidden, config.stoch * config.classes)

    def project(self, tokens: Tensor) -> Tensor:
        """tokens [..., E] -> their share of the first layer [..., U]."""
        return nn.functional.linear(tokens, self.first.weight[:, self.h_size :], self.first.bias)

    def forward(self, projected: Tensor, h: Tensor | None) -> Tensor:
        """`project`'s output [..., U] and h [..., F_h] (None with `x`) -> logits [..., S * C]."""
        if h is not None:
            projected = projected + h @ self.first.weight[:, : self.h_size].T
        return self.output(self.rest(self.norm(projected)))


class Dynamics(nn.Module):
    """Posterior, backbone and prior; nothing outside knows which posterior is in use."""

    def __init__(self, config: WorldModelConfig, backbone: Backbone, token_size: int, actions: int):
        super().__init__()
        self.config, self.backbone = config, backbone
        self.latent = (config.stoch, config.classes)
        flat, hidden = config.stoch * config.classes, config.hidden
        self.sequential = config.posterior == "hx"
        self.from_z = nn.Sequential(Linear(flat, hidden), NormSiLU(hidden))
        self.from_action = nn.Sequential(Linear(actions, hidden), NormSiLU(hidden))
        h_size = backbone.output_size
        self.posterior = Posterior(h_size if self.sequential else 0, token_size, config)
        self.prior = nn.Sequential(MLP(h_size, hidden, config.prior_layers), Linear(hidden, flat))

    def carry_spec(self) -> dict[str, LeafSpec]:
        """Leaves of a Carry: `h`, `z` and the backbone's, less the one that is h itself."""
        spec = {"h": LeafSpec((self.backbone.output_size,)), "z": LeafSpec(self.latent)}
        for name, leaf in self.backbone.state_spec().items():
            if name != self.backbone.output_leaf:
                spec[f"backbone.{name}"] = leaf
        return spec

    def initial(self, batch_size: int) -> Carry:
        """The model state before the first row."""
        device = next(self.parameters()).device
        h = torch.zeros(batch_size, self.backbone.output_size, device=device)
        z = torch.zeros(batch_size, *self.latent, device=device)
        return self._carry(h, z, self.backbone.initial(batch_size))

    def observe(
        self,
        tokens: Tensor,
        prev_action: Tensor,
        reset: Tensor,
        carry: Carry | None,
        emit: Emit | Stratified,
    ) -> Observed:
        """tokens [B, T, E], prev_action [B, T, A], reset [B, T]; `emit` picks the M starts.

        With posterior `hx` and neither "all" nor `Stratified`, all B * T states are copied.
        """
        carry = self.initial(tokens.shape[0]) if carry is None else carry
        prev_action = prev_action * ~reset.unsqueeze(-1)
        run = self._observe_sequential if self.sequential else self._observe_parallel
        h, z, post, last, emitted = run(tokens, prev_action, reset, carry, emit)
        assert emitted is not None  # emit was given
        prior = self.prior(h).unflatten(-1, self.latent)
        start = self._carry(gather_rows(h, emit), gather_rows(z, emit), emitted)
        return Observed(h, z, post, prior, start, self._carry(h[:, -1], z[:, -1], last))

    def _observe_sequential(self, tokens, prev_action, reset, carry, emit):
        projected, action = (
            self.posterior.project(tokens),
            self.from_action(clip_action(prev_action)),
        )
        keep = (~reset)[..., None, None]
        z, state = carry["z"], self._state(carry)
        hs, zs, posts, states = [], [], [], []
        for t in range(tokens.shape[1]):
            u = torch.cat([self.from_z((z * keep[:, t]).flatten(1)), action[:, t]], -1)
            h, state = self.backbone.step(u, state, reset[:, t])
            logits = self.posterior(projected[:, t], h).unflatten(-1, self.latent)
            z = OneHot.from_logits(logits, self.config.unimix).sample()
            for rows, row in ((hs, h), (zs, z), (posts, logits), (states, state)):
                rows.append(row)
        h, z, post = (torch.stack(rows, 1) for rows in (hs, zs, posts))
        return h, z, post, state, emit_states(states, emit)

    def _observe_parallel(self, tokens, prev_action, reset, carry, emit):
        post = self.posterior(self.posterior.project(tokens), None).unflatten(-1, self.latent)
        z = OneHot.from_logits(post, self.config.unimix).sample()
        prev_z = torch.cat([carry["z"].unsqueeze(1), z[:, :-1]], 1) * (~reset)[..., None, None]
        u = self._mix(prev_z, prev_action)
        emit = emit.index if isinstance(emit, Stratified) else emit
        h, last, emitted = self.backbone.sequence(u, self._state(carry), reset, emit)
        return h, z, post, last, emitted

    def observe_step(
        self,
        carry: Carry,
        prev_action: Tensor,
        tokens: Tensor,
        reset: Tensor,
        generator: torch.Generator | None,
    ) -> Carry:
        """One row of N streams: prev_action [N, A], tokens [N, E], reset [N] -> Carry after it."""
        keep = ~reset
        u = self._mix(carry["z"] * keep[:, None, None], prev_action * keep[:, None])
        h, state = self.backbone.step(u, self._state(carry), reset)
        projected = self.posterior.project(tokens)
        logits = self.posterior(projected, h if self.sequential else None)
        z = OneHot.from_logits(logits.unflatten(-1, self.latent), self.config.unimix)
        return self._carry(h, z.sample(generator), state)

    def imagine_step(
        self, carry: Carry, action: Tensor, generator: torch.Generator | None
    ) -> Carry:
        """action [N, A] chosen at `carry` -> the model state it leads to, drawn from the prior."""
        h, state = self.backbone.step(self._mix(carry["z"], action), self._state(carry), None)
        logits = self.prior(h).unflatten(-1, self.latent)
        return self._carry(
            h, OneHot.from_logits(logits, self.config.unimix).sample(generator), state
        )

    def _mix(self, z: Tensor, action: Tensor) -> Tensor:
        """z [..., S, C], action [..., A] -> u [..., 2 U]."""
        return torch.cat([self.from_z(z.flatten(-2)), self.from_action(clip_action(action))], -1)

    def _carry(self, h: Tensor, z: Tensor, state: State) -> Carry:
        own = {
            f"backbone.{name}": leaf
            for name, leaf in state.items()
            if name != self.backbone.output_leaf
        }
        return State({"h": h.to(z.dtype), "z": z, **own})  # autocast may have narrowed h

    def _state(self, carry: Carry) -> State:
        leaves = {}
        for name in self.backbone.state_spec():
            is_output = name == self.backbone.output_leaf
            leaves[name] = carry["h"] if is_output else carry[f"backbone.{name}"]
        return State(leaves)


def clip_action(action: Tensor) -> Tensor:
    """Actions beyond [-1, 1] are divided by their size, elementwise."""
    return action / action.abs().clamp(min=1).detach()
