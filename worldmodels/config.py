"""Every option of a run, as frozen dataclasses; the docstring under a field is its help text.

Imports neither torch nor numpy, so that `--help` is quick. Derived numbers are properties.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodels.backbones.configs import RSSMConfig
from worldmodels.bounds import check_bounds
from worldmodels.dreamer_options import ActorCriticConfig, WorldModelConfig
from worldmodels.envs.configs import CatchConfig
from worldmodels.errors import UserError
from worldmodels.optimizer_options import OptimizerConfig
from worldmodels.parts import check_retention, check_sampling, parse_carry
from worldmodels.values.configs import ValuesConfig

_AT_LEAST = {
    "steps": 1,
    "threads": 0,
    "num_envs": 1,
    "train_ratio": 0,
    "model_updates": 0,
    "horizon": 1,
    "replay.capacity": 1,
    "replay.batch_size": 1,
    "replay.batch_length": 2,
    "replay.segment": 1,
    "evaluation.every": 0,
    "evaluation.episodes": 1,
    "evaluation.envs": 1,
    "checkpoint.minutes": 0,
    "checkpoint.keep": 1,
    "log.every": 1,
}
_SHARES = ("replay.long_term_share",)


@dataclass(frozen=True)
class ReplayConfig:
    """What is kept and how it is drawn."""

    capacity: int = 1_000_000
    """Rows kept. With storage `ram`, memory for as many as the run brings is taken at once."""
    batch_size: int = 16
    """Sequences in a batch."""
    batch_length: int = 64
    """Rows of a sequence."""
    carry: str = "auto"
    """State before a sequence: `stored`, `zero`, `burnin:K` (K rows without loss), `continue`, or
    `auto`: stored where the backbone's state is vectors, else burnin:8."""
    retention: str = "fifo"
    """What stays: `fifo` (the newest), `reservoir` (a uniform sample of all rollouts), `wmar`
    (both), `reward_weighted`, `coverage`, or file.py:Class or package.module:Class."""
    long_term_share: float = 0.5
    """Share of the capacity and of the draws that wmar's reservoir has."""
    sampling: str = "uniform"
    """How windows are drawn: `uniform`, `recency`, `dfs` (the least drawn first), or several with
    their shares, as uniform:0.8+recency:0.2."""
    coin: Literal["batch", "row"] = "batch"
    """Whether all windows of a batch, or each by itself, choose wmar's buffer to come from."""
    storage: Literal["ram", "disk", "device"] = "ram"
    """Where rows are: in RAM, on disk (10 million and more), or in the GPU's memory."""
    online: bool = True
    """Train on every fresh window once before drawing others."""
    segment: int = 1024
    """Rows of one rollout, and of one file on disk; fewer where the capacity is small."""

    def __post_init__(self):
        parse_carry(self.carry)
        check_retention(self.retention)
        check_sampling(self.sampling)


@dataclass(frozen=True)
class EvaluationConfig:
    """Episodes on environments of their own, which never disturb training."""

    every: int = 0
    """Agent steps between evaluations, the first before training; 0: one, at the end."""
    episodes: int = 10
    """Episodes of an evaluation, of each task."""
    envs: int = 4
    """Environments evaluated side by side."""
    greedy: bool = False
    """Take the policy's most probable action instead of sampling."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved; it is also saved at the end and on Ctrl-C, SIGTERM and SIGUSR1."""

    minutes: float = 10.0
    """Minutes between checkpoints; 0 saves after every step."""
    keep: int = 2
    """Checkpoints kept; the older ones are the fallback where the newest is damaged."""


@dataclass(frozen=True)
class LogConfig:
    """What is written while the run goes on."""

    every: int = 500
    """Agent steps between two lines of metrics."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""


@dataclass(frozen=True)
class Config:
    """One run of training; the same object serves the command line and `worldmodels.train`."""

    env: Any = field(default_factory=CatchConfig)
    """Environment and its options."""
    backbone: Any = field(default_factory=RSSMConfig)
    """Sequence backbone and its options."""
    steps: int = 100_000
    """Agent steps of the run, over all environments."""
    offline: str = ""
    """Data set to learn from while no environment is stepped; a step is then an update. A Minari
    data set (folder or id), a run folder, or .npz files (docs/offline.md)."""
    seed: int = 0
    """Every random stream of the run derives from this."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """Arithmetic of the networks; losses and distributions are always float32."""
    deterministic: bool = False
    """Only deterministic operations: the same seed gives the same run, bit for bit."""
    kernel: Literal["auto", "reference", "eager", "triton", "mamba_ssm"] = "auto"
    """Implementation of the operators; auto: Triton kernels on a GPU, torch elsewhere."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    num_envs: int = 1
    """Environments stepped side by side."""
    train_ratio: float = 64.0
    """Replayed rows per agent step."""
    model_updates: int = 0
    """Updates of the world model alone, and then of the policy alone; 0: both in every update."""
    horizon: int = 333
    """Discount horizon in agent steps: the discount is 1 - 1 / horizon."""
    world_model: Any = field(default_factory=WorldModelConfig)
    """World model and its options."""
    actor_critic: Any = field(default_factory=ActorCriticConfig)
    """Policy and critic, and their options."""
    values: ValuesConfig = field(default_factory=ValuesConfig)
    """Values."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Replay."""
    optimizer: Any = field(default_factory=OptimizerConfig)
    """Optimiser and its options."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    log: LogConfig = field(default_factory=LogConfig)
    """Logs."""

    def __post_init__(self):
        check_bounds(self, "", _AT_LEAST, _SHARES)
        batch = self.replay.batch_size * self.replay.batch_length
        if self.replay.capacity < 2 * batch:  # old rows leave by whole segments
            raise UserError(
                f"replay.capacity is at least two batches, {2 * batch} rows, "
                f"not {self.replay.capacity}"
            )
        starts, length = self.actor_critic.starts, self.replay.batch_length
        if starts % length and starts < batch and not self.actor_critic.context:
            raise UserError(
                f"actor_critic.starts is a multiple of replay.batch_length, {length}, not {starts}"
            )

    @property
    def discount(self) -> float:
        """Factor per agent step."""
        return 1 - 1 / self.horizon

    @property
    def updates_per_step(self) -> float:
        """Learner updates per agent step that `train_ratio` amounts to; one while offline."""
        if self.offline:
            return 1.0
        return self.train_ratio / (self.replay.batch_size * self.replay.batch_length)
