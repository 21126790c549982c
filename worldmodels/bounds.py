"""Bounds of numeric options, checked by the dataclass that holds them; imports nothing slow."""

import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from worldmodels.errors import UserError


def check_bounds(
    options: Any,
    prefix: str,
    at_least: Mapping[str, float],
    shares: Iterable[str] = (),
    below_one: Iterable[str] = (),
) -> None:
    """UserError for the first option (dotted, below `options`) out of its bounds.

    `shares` lie between 0 and 1, both included; `below_one` excludes both. `prefix` completes the
    name in the error.
    """
    for name, least in at_least.items():
        value = attrgetter(name)(options)
        if not value >= least:  # so written that NaN fails too
            raise UserError(f"{prefix}{name} is at least {least}, not {value}")
        if value == math.inf:
            raise UserError(f"{prefix}{name} is finite, not {value}")
    for name in shares:
        value = attrgetter(name)(options)
        if not 0 <= value <= 1:
            raise UserError(f"{prefix}{name} lies between 0 and 1, not at {value}")
    for name in below_one:
        value = attrgetter(name)(options)
        if not 0 < value < 1:
            raise UserError(f"{prefix}{name} lies above 0 and below 1, not at {value}")
