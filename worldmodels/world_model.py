"""The world model: encoder, dynamics, decoder, reward and continue heads, and their losses.

Source: DreamerV3 (arXiv 2301.04104, eq. 1 to 5 and the 2025 form). Letters: B sequences, T rows,
N rows of a state, M starts, A action size, F feature width.
"""

from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.backbones.base import Backbone, Emit, LeafSpec, Stratified, gather_rows
from worldmodels.config import Config, WorldModelConfig
from worldmodels.decoders import Decoder
from worldmodels.distributions import TwoHot, default_bins
from worldmodels.dynamics import Dynamics, Observed
from worldmodels.encoders import Encoder
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.heads import Head
from worldmodels.losses import balanced_kl
from worldmodels.objects import Batch, Carry, Latents
from worldmodels.registry import backbone_class
from worldmodels.repo import KLConstraint
from worldmodels.sockets import Prediction, WorldModelBase


class WorldModel(WorldModelBase):
    """`world_model.name: latent`, on the backbone that the config names."""

    def __init__(
        self, config: WorldModelConfig, spec: EnvSpec, backbone: Backbone, discount: float
    ):
        super().__init__()
        self.config, self.discount = config, discount
        flat, bins = config.stoch * config.classes, default_bins().shape[0]
        self.feature_size = backbone.output_size + flat
        self.encoder = Encoder(spec.obs, config.depth, config.units, config.vector_layers)
        self.dynamics = Dynamics(config, backbone, self.encoder.output_size, spec.action.size)
        self.decoder = Decoder(
            spec.obs, backbone.output_size, flat, config.depth, config.units, config.vector_layers
        )
        self.reward = Head(self.feature_size, config.units, config.head_layers, bins, scale=0.0)
        self.cont = Head(self.feature_size, config.units, config.head_layers, 1, scale=1.0)
        self.constraint = KLConstraint(config.kl_target) if config.objective == "repo" else None

    @classmethod
    def build(cls, config: Config, spec: EnvSpec) -> Self:
        """With the backbone of the run."""
        kind, mix = backbone_class(config.backbone.name), 2 * config.world_model.hidden
        try:
            return cls(config.world_model, spec, kind(config.backbone, mix), config.discount)
        except ValueError as error:  # sizes that do not fit together
            raise UserError(
                f"no world model of these sizes for {spec.name} with backbone "
                f"{config.backbone.name}: {error}"
            ) from error

    def describe(self, config: Config) -> str:
        """Backbone and posterior."""
        return f"backbone {config.backbone.name}, posterior {config.world_model.posterior}"

    def forward(self, batch: Batch, emit: Emit | Stratified) -> tuple[dict[str, Tensor], Latents]:
        """Losses [B, T] by name, unweighted, and the latents that imagination starts from."""
        seen, latents = self._observe(batch, emit)
        losses = self._losses(batch, seen, latents.feature)
        if self.constraint is not None:  # rewards shape RePo's latents, critics do not
            latents = replace(latents, feature=latents.feature.detach())
        return losses, latents

    def observe(self, batch: Batch, emit: Emit | Stratified) -> Latents:
        """Posteriors along a batch without burn-in, and the states that `emit` asks for."""
        return self._observe(batch, emit)[1]

    def _observe(self, batch: Batch, emit: Emit | Stratified) -> tuple[Observed, Latents]:
        shape = batch.reward.shape
        tokens = self.encoder(flatten_rows(batch.obs)).unflatten(0, shape)
        seen = self.dynamics.observe(tokens, batch.prev_action, batch.reset, batch.carry, emit)
        rows = all_rows(shape[0], shape[1], batch.reward.device).unflatten(0, shape)
        return seen, Latents(
            feature=torch.cat([seen.h, seen.z.flatten(2)], -1),
            post_logits=seen.post_logits,
            prior_logits=seen.prior_logits,
            start=seen.start.detach(),
            start_index=gather_rows(rows, emit),
            start_weight=(~gather_rows(batch.is_terminal, emit)).float(),
            last=seen.last.detach(),
        )

    def _losses(self, batch: Batch, seen: Observed, feature: Tensor) -> dict[str, Tensor]:
        shape = batch.reward.shape
        free = self.config.free_nats if self.constraint is None else 0.0
        dyn, rep = balanced_kl(seen.post_logits, seen.prior_logits, free, self.config.unimix)
        held = {"dyn": dyn, "rep": rep} if self.constraint is None else self.constraint(dyn, rep)
        h, z = seen.h.flatten(0, 1), seen.z.flatten(0, 1)
        if self.constraint is not None:  # the decoder draws pictures and teaches nothing
            h, z = h.detach(), z.detach()
        decoded = self.decoder.loss(h, z, flatten_rows(batch.obs))
        goes_on = (1 - batch.is_terminal.float()) * self.discount
        logit = self.cont(feature).squeeze(-1).float()
        return {
            **held,
            "reward": -TwoHot.from_logits(self.reward(feature)).log_prob(batch.reward),
            "continue": F.binary_cross_entropy_with_logits(logit, goes_on, reduction="none"),
            **{f"decode/{k}": loss.view(shape) * batch.obs_valid for k, loss in decoded.items()},
        }

    def weights(self) -> dict[str, float]:
        """Weight of every loss that `forward` gives."""
        config = self.config
        held = {"dyn": config.dyn_weight, "rep": config.rep_weight}
        if self.constraint is not None:
            held = {"dyn": 1.0, "rep": 1.0, "multiplier": 1.0, "kl": 0.0}
        return {
            **held,
            "reward": config.reward_weight,
            "continue": config.continue_weight,
            **{f"decode/{key}": config.reconstruction_weight for key in self.decoder.specs},
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The multiplier has a learning rate of its own, and its size is no reason to clip it."""
        if self.constraint is None:
            return super().parameter_groups()
        apart = self.constraint.log_beta
        rest = [p for p in self.parameters() if p.requires_grad and p is not apart]
        return [{"params": rest}, {"params": [apart], "lr": self.config.kl_rate, "agc": 0.0}]

    @torch.no_grad()
    def warm_up(self, batch: Batch) -> Batch:
        """Run the `burnin` rows without loss; what is left starts from the carry they end in."""
        k, length = batch.burnin, batch.reward.shape[1]
        if not k:
            return batch
        lead, rest = batch.rows(0, k), batch.rows(k, length)
        last = self.observe(lead, Stratified.none(k, batch.reward.device)).last
        return replace(rest, carry=last, burnin=0)

    def carry_spec(self) -> dict[str, LeafSpec]:
        """The leaves `h`, `z` and those of the backbone."""
        return self.dynamics.carry_spec()

    def initial(self, batch_size: int) -> Carry:
        """The model state before the first row, N rows."""
        return self.dynamics.initial(batch_size)

    def observe_step(
        self,
        carry: Carry,
        prev_action: Tensor,
        obs: dict[str, Tensor],
        reset: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Carry:
        """One row of N streams: prev_action [N, A], obs [N, ...], reset [N] -> Carry after it."""
        return self.dynamics.observe_step(carry, prev_action, self.encoder(obs), reset, generator)

    def imagine_step(
        self, carry: Carry, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Carry:
        """action [N, A] chosen at `carry` -> the model state it leads to."""
        return self.dynamics.imagine_step(carry, action, generator)

    def feature(self, carry: Carry) -> Tensor:
        """What heads and policy read of N model states: concat(h, flat z) [N, F]."""
        return torch.cat([carry["h"], carry["z"].flatten(1)], -1)

    def predict(self, reading: Tensor) -> Prediction:
        """Feature [..., F] -> reward and continuation, read at that state."""
        reward = TwoHot.from_logits(self.reward(reading)).mean()
        return Prediction(reward, torch.sigmoid(self.cont(reading).squeeze(-1).float()))

    def decode(self, carry: Carry) -> dict[str, Tensor]:
        """The observation that N model states predict: images and planes in [0, 1]."""
        return self.decoder.predict(self.decoder(carry["h"], carry["z"]))


def flatten_rows(obs: dict[str, Tensor]) -> dict[str, Tensor]:
    """[B, T, ...] -> [B * T, ...] per key."""
    return {key: leaf.flatten(0, 1) for key, leaf in obs.items()}


def all_rows(batch: int, length: int, device: torch.device) -> Tensor:
    """Every (b, t) [B * T, 2] in the order b * T + t."""
    return torch.cartesian_prod(
        torch.arange(batch, device=device), torch.arange(length, device=device)
    )
