"""What several seeds say together: median, quartiles, and bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles (linear between values), mean and 95 % intervals of one number per seed.

    The intervals are None below three seeds. All in the units of `values`; their order does not
    matter.
    """
    ordered = np.sort(np.asarray(values, float))
    low, middle, high = np.quantile(ordered, (0.25, 0.5, 0.75))
    return {
        "seeds": len(ordered),
        "median": float(middle),
        "q25": float(low),
        "q75": float(high),
        "mean": float(ordered.mean()),
        "median_interval": bootstrap(ordered, np.median),
        "mean_interval": bootstrap(ordered, np.mean),
    }


def bootstrap(ordered: np.ndarray, statistic: Any) -> list[float] | None:
    """95 % percentile interval of `statistic` (np.median or np.mean) over resampled seeds.

    Source: Efron 1979; Continual World gives 90 % ones. A generator of its own with a fixed seed:
    the same values give the same interval. With five seeds read it as a rough one.
    """
    if len(ordered) < 3:
        return None
    draws = np.random.default_rng(0).integers(len(ordered), size=(RESAMPLES, len(ordered)))
    return [float(x) for x in np.quantile(statistic(ordered[draws], axis=1), (0.025, 0.975))]
