"""Forward transfer: learning a task in the stream against learning it alone.

Shapes and sources are those of `worldmodels.report.continual`. The window of an exposure is its
evaluations (first, last]; areas are taken by the right rectangle rule, in steps.

The headline is Continual World's form. Its denominator 1 - AUC_ref is what there was left to gain,
far from 0 for every task that takes time to learn; ARROW's divides by what the single-task run
itself reached, which is near 0 for a task that is learnt late, and a single such task then decides
the mean over all of them.
"""

from collections.abc import Sequence

import numpy as np

from worldmodels.errors import UserError
from worldmodels.report.continual import TINY
from worldmodels.report.references import Curve, Normaliser
from worldmodels.report.table import Exposure, ScoreTable


def area(q: np.ndarray, steps: np.ndarray) -> float:
    """AUC = sum_j q_j (n_j - n_{j-1}) / (n_N - n_0) of scores q [N] at steps [N+1], which
    begin with the step before the first score. Equal steps make it the mean."""
    widths = np.diff(steps)
    return float(np.dot(q, widths) / widths.sum())


def auc_transfer(area: float, reference: float, task: str) -> float:
    """FT_i = (AUC_i - AUC_ref,i) / (1 - AUC_ref,i) of normalised scores.

    1: at the reference's final score from the first step on; 0: no gain. Source: Continual World,
    equation 2. (Continual-Dreamer's code divides by 1 - AUC_i instead; that is not done here.)
    Raises UserError where AUC_ref >= 1, which leaves nothing to gain.
    """
    if 1 - reference < TINY:
        raise UserError(
            f"forward transfer divides by 1 - AUC_ref, and the single-task run of {task} has "
            f"AUC_ref = {reference:.3g}: it left nothing to gain"
        )
    return (area - reference) / (1 - reference)


def relative_transfer(area: float, reference: float, task: str) -> float:
    """FT_i = (S_i - S_ref,i) / S_ref,i of mean normalised scores over the window.

    Source: ARROW, equation 3, here with scores normalised by the single-task run's final score.
    Raises UserError where S_ref <= 0, below which a gain would count as a loss.
    """
    if reference < TINY:
        raise UserError(
            f"relative forward transfer divides by the single-task run's mean score over the "
            f"window, which for task {task} is {reference:.3g}: no better than random play"
        )
    return (area - reference) / reference


def aligned_transfer(raw: np.ndarray, alone: np.ndarray, widths: np.ndarray, task: str) -> float:
    """FT_i = S_i - 1, S_i the mean of q_i(n) = (p_i(n) - p_ST(0)) / (p_ST(n') - p_ST(0)).

    `raw` [N] holds p_i(n), `alone` [N+1] p_ST(0) and p_ST(n') after as many steps on the task, both
    raw returns; `widths` [N] weigh the mean. S_ref is 1. Source: ARROW, equations 1 and 3. Raises
    UserError where the single-task run is no better than at its step 0 at some n'.
    """
    gain = alone[1:] - alone[0]
    if (gain <= TINY * max(1.0, np.abs(alone).max())).any():
        raise UserError(
            f"time-aligned forward transfer divides by p_ST(n') - p_ST(0), and the single-task run "
            f"of {task} is no better than random play at some evaluation of the window"
        )
    return float(np.average((raw - alone[0]) / gain, weights=widths)) - 1


class Transfer:
    """Forward transfer of one exposure in all three forms, from a table and single-task curves."""

    def __init__(
        self, table: ScoreTable, normaliser: Normaliser, curves: dict[str, Curve], cycle: int = 0
    ):
        """`cycle` picks the exposure of every task; time spent in those before it counts."""
        self._table, self._normaliser, self._curves = table, normaliser, curves
        self._windows = [_window(table, task, cycle) for task in range(len(table.tasks))]

    def auc(self) -> np.ndarray:
        """Continual World's form per task, [T]: the headline."""
        return np.array([auc_transfer(*self._areas(i), task) for i, task in self._each()])

    def relative(self) -> np.ndarray:
        """ARROW's form per task, [T], normalised by the final score."""
        return np.array([relative_transfer(*self._areas(i), task) for i, task in self._each()])

    def aligned(self) -> np.ndarray:
        """ARROW's form per task, [T], normalised by the single-task score at the same time."""
        terms = []
        for i, task in self._each():
            window = self._windows[i][0]
            raw = self._table.means[i, window.first + 1 : window.last + 1]
            times = self._times(i)
            alone = np.concatenate([[self._normaliser.random[i]], self._alone(task, times[1:])])
            terms.append(aligned_transfer(raw, alone, np.diff(times), task))
        return np.array(terms)

    def _each(self) -> list[tuple[int, str]]:
        return list(enumerate(self._table.tasks))

    def _times(self, i: int) -> np.ndarray:
        """Steps on the task at the window's evaluations, after the step before the first."""
        window, spent = self._windows[i]
        steps = self._table.steps[window.first : window.last + 1]
        return steps - steps[0] + spent

    def _areas(self, i: int) -> tuple[float, float]:
        """AUC of the run and of the single-task run over the same time on the task."""
        window, times = self._windows[i][0], self._times(i)
        q = self._normaliser(self._table.means)[i, window.first + 1 : window.last + 1]
        alone = self._normaliser.one(i, self._alone(self._table.tasks[i], times[1:]))
        return area(q, times), area(alone, times)

    def _alone(self, task: str, times: np.ndarray) -> np.ndarray:
        return self._curves[task].at(times)


def _window(table: ScoreTable, task: int, cycle: int) -> tuple[Exposure, int]:
    """The exposure, and the steps spent on the task before it."""
    mine: Sequence[Exposure] = [e for e in table.exposures if e.task == task]
    spent = sum(int(table.steps[e.last] - table.steps[e.first]) for e in mine[:cycle])
    return mine[cycle], spent
