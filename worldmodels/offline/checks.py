"""What one column of an episode must be; the first row that is not is named.

Letters: T actions of an episode, which make T + 1 rows. Entry t of an action, reward or flag
belongs to row t + 1, where it led.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.offline.place import Place

SLACK = 1e-6
"""How far, as a share of a bound, rounding may carry an action beyond it."""


def is_array(place: Place, name: str, values: Any) -> np.ndarray:
    """`values`, if it is an array with an entry per row or action."""
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        raise place.fault(0, f"{name} is {type(values).__name__}, not an array with a row each")
    return values


def has_length(place: Place, name: str, values: np.ndarray, actions: int) -> None:
    """As many entries as actions."""
    if len(values) != actions:
        row = min(len(values), actions) + 1
        raise place.fault(row, f"{name} has {len(values)} entries for {actions} actions")


def has_last_row(place: Place, name: str, values: np.ndarray, actions: int) -> None:
    """One entry more than actions: the last observation of an episode is a row too."""
    if len(values) == actions:
        raise place.fault(
            actions,
            f"the last observation is missing: {name} has {actions} rows for {actions} actions, "
            f"which make {actions + 1}",
        )
    if len(values) != actions + 1:
        row = min(len(values), actions + 1)
        raise place.fault(
            row, f"{name} has {len(values)} rows for {actions} actions, which make {actions + 1}"
        )


def has_form(place: Place, name: str, values: np.ndarray, space: spaces.Space, row: int) -> None:
    """The type and the shape that the data set says its columns have."""
    whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    right = np.issubdtype(values.dtype, np.integer) if whole else values.dtype == space.dtype
    if not right:
        wanted = "whole numbers" if whole else f"{space.dtype}"
        raise place.fault(row, f"{name} is {values.dtype}, where the data set has {wanted}")
    if values.shape[1:] != space.shape:
        raise place.fault(
            row, f"{name} has the shape {values.shape[1:]}, where the data set has {space.shape}"
        )


def is_finite(place: Place, name: str, values: np.ndarray, first_row: int) -> None:
    """Neither NaN nor infinite, in the float32 that is kept of it."""
    if not np.issubdtype(values.dtype, np.floating):
        return
    with np.errstate(over="ignore"):
        kept = values.astype(np.float32)
    _all(place, name, values, np.isfinite(kept), first_row, "is no finite number in float32")


def is_within(
    place: Place, name: str, values: np.ndarray, space: spaces.Space, first_row: int
) -> None:
    """Within the space, where that has choices; the Box of an observation may be left."""
    match space:
        case spaces.Discrete():
            low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
        case spaces.MultiDiscrete():
            low, high = space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            low, high = np.zeros((), np.int8), np.ones((), np.int8)
        case _:
            return
    inside = (values >= low) & (values <= high)
    _all(place, name, values, inside, first_row, f"is not within {low} to {high}")


def is_binary(place: Place, name: str, values: np.ndarray) -> None:
    """Boolean planes that travel as bytes."""
    _all(place, name, values, values <= 1, 0, "is no boolean")


def is_allowed_action(place: Place, values: np.ndarray, space: spaces.Space) -> None:
    """Within the bounds of the action space, but for rounding."""
    if not isinstance(space, spaces.Box):
        return is_within(place, "actions", values, space, 1)
    is_finite(place, "actions", values, 1)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    slack = SLACK * np.maximum(np.abs(low), np.abs(high))
    inside = (values >= low - slack) & (values <= high + slack)
    _all(place, "actions", values, inside, 1, f"is outside the action space {space}")


def is_reward(place: Place, values: np.ndarray, actions: int) -> None:
    """One finite number for every action."""
    has_length(place, "rewards", values, actions)
    number = np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)
    if not number or values.ndim != 1:
        shape = f" of shape {values.shape[1:]}" if values.ndim != 1 else ""
        raise place.fault(1, f"rewards is {values.dtype}{shape}, not one number an action")
    is_finite(place, "rewards", values, 1)


def is_end(place: Place, name: str, values: np.ndarray, actions: int) -> None:
    """One boolean for every action, false but for the last."""
    has_length(place, name, values, actions)
    if values.dtype != np.bool_ or values.ndim != 1:
        raise place.fault(1, f"{name} is {values.dtype} of shape {values.shape}, not booleans")
    _all(place, name, values[:-1], ~values[:-1], 1, "ends the episode in its middle")


def is_scale(place: Place, low: float | None, high: float | None) -> None:
    """Scores that count as 0 and 1, of which the first is below the second."""
    if low is not None and high is not None and low >= high:
        raise place.fault(0, f"ref_min_score, {low:g}, is not below ref_max_score, {high:g}")


def is_marker(place: Place, name: str, values: np.ndarray) -> None:
    """Booleans, or the numbers of tasks: one a row."""
    kind = np.integer if name == "task" else np.bool_
    if values.ndim != 1 or not np.issubdtype(values.dtype, kind):
        raise place.fault(0, f"{name} is {values.dtype} of shape {values.shape}")


def _all(
    place: Place, name: str, values: np.ndarray, right: np.ndarray, first_row: int, what: str
) -> None:
    """Name the first entry that is not right."""
    wrong = np.argwhere(~np.asarray(right))
    if len(wrong):
        where = tuple(wrong[0].tolist())
        index = ", ".join(map(str, where))
        raise place.fault(
            where[0] + first_row, f"{name}[{index}], which is {values[where]}, {what}"
        )
