"""Continual-learning metrics: pure functions of a table of normalised scores.

Everywhere q [T, N] holds q_i(n), the normalised score of task i at evaluation n (0 = random play,
1 = reference, not clipped; `references.Normaliser` makes it from raw returns), and `exposures` says
which task was trained on when. t_i is the last evaluation of task i's exposure and "end" is the
last evaluation of the run. All results are in units of q. Sources, by the names used below:

ARROW: arXiv 2603.11395, section 4.4. Continual World: Wolczyk et al. 2021, arXiv 2105.10919.
CORA: Powers et al. 2022, arXiv 2110.10067. GEM: Lopez-Paz and Ranzato 2017, arXiv 1706.08840.
WC-ACC: De Lange et al. 2023, arXiv 2205.13452.
"""

from collections.abc import Sequence

import numpy as np

from worldmodels.errors import UserError
from worldmodels.report.table import Exposure

Exposures = Sequence[Exposure]
TINY = 1e-9
"""A denominator below this is zero."""


def by_cycle(exposures: Exposures) -> list[list[Exposure]]:
    """[C][T]: the c-th exposure of every task, as often as every task comes back."""
    tasks = 1 + max(exposure.task for exposure in exposures)
    of_task = [[e for e in exposures if e.task == task] for task in range(tasks)]
    return [list(cycle) for cycle in zip(*of_task, strict=False)]


def average_performance(q: np.ndarray) -> np.ndarray:
    """P(n) = (1/T) sum_i q_i(n), [N]: over all tasks, seen or not.

    Source: Continual World, section 3.3. At the end of a run on all tasks it is ACC.
    """
    return q.mean(0)


def accuracy(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """ACC_k = (1/k) sum_{i<=k} q_i(t_k), [K]: over the tasks seen by the end of exposure k.

    Source: ARROW; GEM's ACC is its last entry, the headline.
    """
    return np.array([q[_seen(exposures, k), e.last].mean() for k, e in enumerate(exposures)])


def forgetting(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """F_i = q_i(t_i) - q_i(end), [T]; F is the mean over all T, lower is better.

    Source: ARROW. t_i ends the last exposure of task i, so that the term of the last task is 0 by
    construction. Negative: the task gained after it was left.
    """
    return np.array([q[e.task, e.last] - q[e.task, -1] for e in _final(exposures)])


def smoothed_forgetting(q: np.ndarray, exposures: Exposures, last: int = 5) -> np.ndarray:
    """F_i of Continual World, [T], mean over all T: scores are means of `last` evaluations.

    q_i(t_i) is the mean of the last five evaluations of the exposure and q_i(end) that of the run's
    last five; a shorter last exposure shortens both. Source: Continual World, equation 3 with the
    smoothing of its published tables.
    """
    span = min(last, exposures[-1].last - exposures[-1].first)
    end = q[:, -span:].mean(1)
    terms = []
    for e in _final(exposures):
        start = max(e.first, e.last - span)
        terms.append(q[e.task, start + 1 : e.last + 1].mean() - end[e.task])
    return np.array(terms)


def cycle_forgetting(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """F_i of cycle c = q_i(end of exposure c) - q_i(end of cycle c), [C, T].

    Source: ARROW, two-cycle tables. The last row equals `forgetting` where all cycles are whole.
    """
    return np.array(
        [
            [q[e.task, e.last] - q[e.task, max(other.last for other in cycle)] for e in cycle]
            for cycle in by_cycle(exposures)
        ]
    )


def backward_transfer(q: np.ndarray, exposures: Exposures) -> float | None:
    """BWT = (1/(T-1)) sum_i [q_i(end) - q_i(t_i)] over all tasks but the last; None for T = 1.

    Source: GEM. It is -F T/(T-1); ARROW's backward transfer is -F itself.
    """
    left = np.delete(forgetting(q, exposures), exposures[-1].task)
    return -float(left.mean()) if len(left) else None


def isolated_forgetting(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """F(i, j) = q_i(end of j-1) - q_i(end of j), [T, K]: what exposure j took from task i.

    NaN where j comes before task i or trains it. Source: CORA, with q for its scores divided by the
    largest |return| of a task.
    """
    return -_steps_of(q, exposures, after=True)


def zero_shot_transfer(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """Z(i, j) = q_i(end of j) - q_i(end of j-1), [T, K]: what j gave task i before its own.

    NaN from task i's first exposure on. Source: CORA, as above; step 0 stands before j = 0.
    """
    return _steps_of(q, exposures, after=False)


def minimum_accuracy(q: np.ndarray, exposures: Exposures) -> list[float | None]:
    """min-ACC_k = (1/(k-1)) sum_{i<k} min_{t_i < n <= t_k} q_i(n), [K]; None where k = 1.

    i runs over the tasks seen before, without the current one; t_i ends the first exposure of i.
    Source: WC-ACC; ARROW.
    """
    firsts = by_cycle(exposures)[0]
    result: list[float | None] = []
    for k, now in enumerate(exposures):
        others = [firsts[i] for i in _seen(exposures, k) if i != now.task]
        lows = [q[e.task, e.last + 1 : now.last + 1].min() for e in others]
        result.append(float(np.mean(lows)) if lows else None)
    return result


def worst_case_accuracy(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """WC-ACC_k = q_k(t_k) / k + (1 - 1/k) min-ACC_k, [K]; k counts the tasks seen.

    For k = 1 the second weight is 0 and WC-ACC_1 = q_1(t_1). Source: WC-ACC; ARROW.
    """
    result = []
    for k, (now, low) in enumerate(zip(exposures, minimum_accuracy(q, exposures), strict=True)):
        share = 1 / len(_seen(exposures, k))
        result.append(share * q[now.task, now.last] + (1 - share) * (low or 0.0))
    return np.array(result)


def plasticity(q: np.ndarray, exposures: Exposures) -> np.ndarray:
    """max_n q_i(n) over the evaluations of task i's first exposure, [T]; higher is better.

    Source: the maximum on each new task that WMAR reports, arXiv 2401.16650.
    """
    firsts = by_cycle(exposures)[0]
    return np.array([q[e.task, e.first + 1 : e.last + 1].max() for e in firsts])


def maximum_forgetting(q: np.ndarray, exposures: Exposures) -> np.ndarray | None:
    """Max-F_i = q_i(end of 1st exposure) - q_i(last evaluation before the 2nd), [T].

    None where some task has no second exposure. Source: ARROW, two cycles.
    """
    first, second = _two_cycles(exposures)
    if not second:
        return None
    pairs = zip(first, second, strict=True)
    return np.array([q[a.task, a.last] - q[b.task, b.first] for a, b in pairs])


def recovery(q: np.ndarray, exposures: Exposures, tasks: Sequence[str]) -> np.ndarray | None:
    """Recovery_i = q_i(end of 2nd exposure) / q_i(end of 1st), [T]; None as for Max-F.

    Raises UserError where task i is at the random score after its first exposure. Source: ARROW.
    """
    first, second = _two_cycles(exposures)
    if not second:
        return None
    for e in first:
        if abs(q[e.task, e.last]) < TINY:
            raise UserError(
                f"recovery divides by the score after the first exposure, which for task "
                f"{tasks[e.task]} is that of random play"
            )
    pairs = zip(first, second, strict=True)
    return np.array([q[b.task, b.last] / q[a.task, a.last] for a, b in pairs])


def _seen(exposures: Exposures, k: int) -> list[int]:
    return sorted({e.task for e in exposures[: k + 1]})


def _final(exposures: Exposures) -> list[Exposure]:
    """The last exposure of every task, by row."""
    return [e for _, e in sorted({e.task: e for e in exposures}.items())]


def _two_cycles(exposures: Exposures) -> tuple[list[Exposure], list[Exposure]]:
    cycles = by_cycle(exposures)
    return cycles[0], cycles[1] if len(cycles) > 1 else []


def _steps_of(q: np.ndarray, exposures: Exposures, after: bool) -> np.ndarray:
    """q at the end of each exposure less q at its beginning, [T, K], NaN where not asked for."""
    result = np.full((len(q), len(exposures)), np.nan)
    for k, e in enumerate(exposures):
        seen = _seen(exposures, k)
        for i in range(len(q)):
            if i != e.task and (i in seen) == after:
                result[i, k] = q[i, e.last] - q[i, e.first]
    return result
