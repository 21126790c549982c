"""Options of what this package adds; imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from worldmodels.bounds import check_bounds
from worldmodels.errors import UserError


@dataclass(frozen=True)
class ObservationConfig:
    """No model: the state is the observation, and nothing is imagined."""

    SHAPES: ClassVar[tuple[str, ...]] = ()
    BACKBONE: ClassVar[bool] = False
    name: Literal["observation"] = "observation"
    """Which world model this is."""


@dataclass(frozen=True)
class EnsembleConfig:
    """Probabilistic networks that predict the next observation and the reward (MBPO, RAVL)."""

    SHAPES: ClassVar[tuple[str, ...]] = ("members", "elites", "layers", "units", "termination")
    BACKBONE: ClassVar[bool] = False
    name: Literal["ensemble"] = "ensemble"
    """Which world model this is."""
    members: int = 7
    """Networks, each with weights and draws of data of its own."""
    elites: int = 5
    """Networks that imagine: those with the least error on held-out rows."""
    layers: int = 4
    """Hidden layers of a network."""
    units: int = 200
    """Width of a network."""
    learning_rate: float = 1e-3
    """Step size of the networks."""
    weight_decay: float = 1e-4
    """Decay of the output weights; hidden layers have a quarter, a half, then three quarters."""
    held_out: float = 0.2
    """Share of the rows that only measure errors."""
    error_memory: float = 0.99
    """Memory, over updates, of the running error on held-out rows."""
    penalty: float = 0.0
    """Taken off an imagined reward for every unit of the largest predicted deviation (MOPO)."""
    termination: Literal["learned", "never"] = "learned"
    """What ends an imagined episode: a network that learns it from the rows, or nothing."""
    vagram: float = 0.0
    """Share of the critic's slope in the weights of errors: what would change the value more counts
    more (VaGraM); 0: all errors count alike."""

    def __post_init__(self):
        least = {"members": 1, "elites": 1, "layers": 1, "units": 1, "learning_rate": 0}
        least |= {"weight_decay": 0, "penalty": 0}
        shares, below_one = ("vagram",), ("held_out", "error_memory")
        check_bounds(self, "world_model.", least, shares, below_one)
        if self.elites > self.members:
            raise UserError(
                f"world_model.elites is at most world_model.members, {self.members}, "
                f"not {self.elites}"
            )


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic with N critics and a ring of imagined transitions."""

    SHAPES: ClassVar[tuple[str, ...]] = (
        "critics",
        "layers",
        "units",
        "imagination_length",
        "starts",
        "retain",
    )
    context: ClassVar[int] = 0
    """Imagination starts from the states of the learned batch."""
    name: Literal["sac"] = "sac"
    """Which actor-critic this is."""
    critics: int = 10
    """Critics, of which the least value counts."""
    diversity: float = 1.0
    """Weight of the cosine between the critics' gradients with respect to the action (EDAC)."""
    layers: int = 3
    """Hidden layers of the policy and of every critic."""
    units: int = 256
    """Width of the policy and of every critic."""
    batch: int = 256
    """Transitions of an update."""
    real_share: float = 0.05
    """Share of the batch that was replayed; the rest was imagined."""
    imagination_length: int = 5
    """Steps imagined from every start; 0 with a real share of 1."""
    starts: int = 0
    """Imagination starts per update, as many from every row of time; 0 uses every row."""
    retain: int = 5000
    """Updates whose imagined transitions the ring holds."""
    slow_rate: float = 0.005
    """How far the slow critics move towards the critics after every update."""

    def __post_init__(self):
        least = {"critics": 1, "diversity": 0, "layers": 1, "units": 1, "batch": 1}
        least |= {"imagination_length": 0, "starts": 0, "retain": 1}
        check_bounds(self, "actor_critic.", least, shares=("real_share", "slow_rate"))
        if self.diversity and self.critics < 2:
            raise UserError("actor_critic.diversity needs actor_critic.critics of at least 2")
        if bool(self.imagined) != bool(self.imagination_length):
            raise UserError(
                "actor_critic.imagination_length is 0 where actor_critic.real_share is 1, and only "
                f"there, not {self.imagination_length} with a real share of {self.real_share:g}"
            )

    @property
    def real(self) -> int:
        """Replayed transitions of a batch."""
        return int(self.real_share * self.batch)

    @property
    def imagined(self) -> int:
        """Imagined transitions of a batch."""
        return self.batch - self.real
