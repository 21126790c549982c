"""The table of methods; README.md says what each is there to show."""

from pathlib import Path
from typing import Any

from off_policy import Method
from plane import Method as PlaneMethod

HERE = Path(__file__).parent
ONE = {"kind": "ravl", "critics": 1, "prior_scale": 0.0}
FIVE = {"kind": "ravl", "critics": 5, "reach_penalty": 0.0}
C = {"reach_penalty": 0.3}

LATTICE: dict[str, dict[str, Any]] = {
    "plain": {},
    "oracle": {**ONE, "kind": f"{HERE / 'oracle.py'}:OraclePatch", "reach_penalty": 0.0},
    "min": {**FIVE, "reducer": "min", "prior_scale": 0.0},
    "mean+prior": {**FIVE, "reducer": "mean", "prior_scale": 0.2},
    "min+gradient": {**FIVE, "prior_scale": 0.0, "diversity": "gradient"},
    "min+prior": {**FIVE, "reducer": "min", "prior_scale": 0.2},
    "exact": {**ONE, **C, "novelty": "exact"},
    "knn": {**ONE, **C, "novelty": "knn"},
    "rnd": {**ONE, **C, "novelty": "rnd"},
    "ravl": {**FIVE, **C, "reducer": "min", "prior_scale": 0.2, "novelty": "knn"},
}
"""`values` of a run in true dynamics."""

CURES = ("min+prior", "exact", "knn", "rnd", "ravl")
"""Those that run twice as long, and on the negative control."""

PIXELS = ("plain", "min+prior", "knn", "ravl")
"""Those that need no more than features, tried in a learned model."""

OFF_POLICY = {
    "plain": Method(),
    "patch": Method(patch=True),
    "min of 10": Method(critics=10),
    "min of 10 + prior 2": Method(critics=10, prior=2.0),
    "min of 10 + prior 15": Method(critics=10, prior=15.0),
}

PLANE = {
    "sac": PlaneMethod(critics=2),
    "patch 11": PlaneMethod(critics=2, patch=11.0),
    "patch 7": PlaneMethod(critics=2, patch=7.0),
    "min of 10": PlaneMethod(critics=10),
    "ravl 0.1": PlaneMethod(critics=10, eta=0.1),
    "ravl 1": PlaneMethod(critics=10, eta=1.0),
    "ravl 10": PlaneMethod(critics=10, eta=10.0),
    "ravl 100": PlaneMethod(critics=10, eta=100.0),
    "ravl of 50, 1": PlaneMethod(critics=50, eta=1.0),
    "ravl of 50, 10": PlaneMethod(critics=50, eta=10.0),
}
"""SAC on the plane: the radius behind patch, eta behind ravl, whose critics are 10 or 50."""
