"""Options of DreamerV3's world model and actor-critic; imports neither torch nor numpy.

A world model's or an actor-critic's options are a frozen dataclass with a field `name`, what the
learner reads of an actor-critic (`imagination_length`, `starts`, `context`), and `SHAPES`: the
options that shape what a checkpoint holds, which a resumed run keeps. A world model without a
sequence backbone says so by `BACKBONE`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from worldmodels.bounds import check_bounds
from worldmodels.errors import UserError


@dataclass(frozen=True)
class WorldModelConfig:
    """Encoder, dynamics (posterior, backbone, prior), heads and their losses."""

    SHAPES: ClassVar[tuple[str, ...]] = (
        "posterior",
        "stoch",
        "classes",
        "hidden",
        "prior_layers",
        "posterior_layers",
        "depth",
        "units",
        "vector_layers",
        "head_layers",
        "objective",
    )
    name: Literal["latent"] = "latent"
    """Which world model this is."""
    posterior: Literal["hx", "x"] = "hx"
    """`hx` reads memory and observation (DreamerV3); `x` the observation alone (parallel)."""
    stoch: int = 32
    """Categorical latents per state."""
    classes: int = 4
    """Classes of each categorical latent."""
    hidden: int = 64
    """Width of the branches that mix latent and action, and of the prior and the posterior."""
    prior_layers: int = 2
    """Hidden layers of the prior."""
    posterior_layers: int = 1
    """Hidden layers of the posterior."""
    depth: int = 4
    """Channel multiplier of the image encoder and decoder (stages use 2, 3, 4, 4 times this)."""
    units: int = 64
    """Width of the heads and of the vector encoder and decoder."""
    vector_layers: int = 3
    """Hidden layers of the vector encoder and decoder."""
    head_layers: int = 1
    """Hidden layers of the reward and continue heads."""
    free_nats: float = 1.0
    """KL below this many nats per state is free."""
    unimix: float = 0.01
    """Share of the uniform distribution in every categorical latent."""
    dyn_weight: float = 1.0
    """Weight of the KL that teaches the prior."""
    rep_weight: float = 0.1
    """Weight of the KL that regularises the posterior."""
    reconstruction_weight: float = 1.0
    """Weight of every observation key's loss."""
    reward_weight: float = 1.0
    """Weight of the reward head's loss."""
    continue_weight: float = 1.0
    """Weight of the continue head's loss."""
    objective: Literal["reconstruction", "repo"] = "reconstruction"
    """What latents are learned for: to decode the observation (DreamerV3), or to foretell rewards
    while a multiplier holds the KL to `kl_target` (RePo). Decoder and critics then only look on,
    and `free_nats`, `dyn_weight` and `rep_weight` have no say."""
    kl_target: float = 3.0
    """Nats per state that a posterior may add to its prior, for the objective repo."""
    kl_rate: float = 1e-4
    """Learning rate of the multiplier's logarithm, for the objective repo."""

    def __post_init__(self):
        least = {"stoch": 1, "classes": 2, "hidden": 1, "depth": 1, "units": 1}
        least |= {"prior_layers": 1, "posterior_layers": 1, "vector_layers": 1, "head_layers": 1}
        least |= {"kl_target": 0, "kl_rate": 0}
        check_bounds(self, "world_model.", least, shares=("unimix",))
        changed = (self.kl_target, self.kl_rate) != (3.0, 1e-4)
        if changed and self.objective != "repo":
            raise UserError(
                "world_model.kl_target and kl_rate belong to --world-model.objective repo; give "
                "that too, or leave them out"
            )


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and critic, trained on imagined and replayed states."""

    SHAPES: ClassVar[tuple[str, ...]] = ("layers", "units")
    name: Literal["dreamer"] = "dreamer"
    """Which actor-critic this is."""
    layers: int = 3
    """Hidden layers of the policy and of the critic."""
    units: int = 64
    """Width of the policy and of the critic."""
    imagination_length: int = 15
    """Steps imagined from every start."""
    starts: int = 0
    """Imagination starts per update, as many from every row of time; 0 uses every row."""
    context: int = 0
    """Rows that lead to a start, in windows drawn for imagination alone, `starts` of them (Drama,
    STORM); 0: imagination starts from the states of the learned batch."""
    return_lambda: float = 0.95
    """Mixing of the lambda-returns."""
    entropy: float = 3e-4
    """Weight of the policy's entropy bonus."""
    unimix: float = 0.01
    """Share of the uniform distribution in a discrete policy."""
    slow_rate: float = 0.02
    """How far the slow critic moves towards the critic after every update."""
    slow_weight: float = 1.0
    """Weight of the critic's regularisation towards the slow critic."""
    policy_weight: float = 1.0
    """Weight of the policy's loss."""
    value_weight: float = 1.0
    """Weight of the critic's loss on imagined states."""
    replay_value_weight: float = 0.3
    """Weight of the critic's loss on replayed states."""
    normalizer_decay: float = 0.99
    """Memory of the running range of returns."""

    def __post_init__(self):
        least = {"units": 1, "layers": 1, "imagination_length": 1, "starts": 0, "context": 0}
        shares = ("return_lambda", "unimix", "slow_rate", "normalizer_decay")
        check_bounds(self, "actor_critic.", least, shares)
        if self.context and (self.context < 2 or not self.starts):
            raise UserError(
                "actor_critic.context is at least 2 and needs actor_critic.starts, the number of "
                f"windows; got {self.context} and {self.starts}"
            )
