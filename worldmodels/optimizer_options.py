"""Options of the optimisers; imports neither torch nor numpy."""

from dataclasses import dataclass
from typing import Any, Literal

from worldmodels.bounds import check_bounds


@dataclass(frozen=True)
class OptimizerConfig:
    """LaProp with adaptive gradient clipping."""

    name: Literal["laprop"] = "laprop"
    """Which optimiser this is."""
    learning_rate: float = 4e-5
    """Step size after the warm-up."""
    warmup: int = 1000
    """Updates over which the step size rises linearly."""
    beta1: float = 0.9
    """Memory of the momentum."""
    beta2: float = 0.999
    """Memory of the squared gradient."""
    eps: float = 1e-20
    """Added to the root of the squared gradient."""
    agc: float = 0.3
    """Largest gradient norm of a tensor, as a share of the tensor's own norm; 0 turns it off."""

    def __post_init__(self):
        least = {"learning_rate": 0, "warmup": 0, "agc": 0}
        check_bounds(self, "optimizer.", least, below_one=("beta1", "beta2"))

    def arguments(self) -> dict[str, Any]:
        """What the optimiser's class takes."""
        betas = (self.beta1, self.beta2)
        given = {"lr": self.learning_rate, "betas": betas, "eps": self.eps}
        return {**given, "agc": self.agc, "warmup": self.warmup}


@dataclass(frozen=True)
class AdamConfig:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980)."""

    name: Literal["adam"] = "adam"
    """Which optimiser this is."""
    learning_rate: float = 3e-4
    """Step size, where a module has none of its own."""
    beta1: float = 0.9
    """Memory of the gradient."""
    beta2: float = 0.999
    """Memory of the squared gradient."""
    eps: float = 1e-8
    """Added to the root of the squared gradient."""

    def __post_init__(self):
        check_bounds(self, "optimizer.", {"learning_rate": 0}, below_one=("beta1", "beta2"))

    def arguments(self) -> dict[str, Any]:
        """What the optimiser's class takes."""
        betas = (self.beta1, self.beta2)
        return {"lr": self.learning_rate, "betas": betas, "eps": self.eps}
