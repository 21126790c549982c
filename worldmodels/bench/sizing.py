"""Equal size: the width at which a backbone's whole world model has a wanted number of parameters.

Everything else of the world model (encoder, decoder, heads, latents, the backbone's other options)
stays as it is, so the rows of a comparison differ in the backbone and its width alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch

from worldmodels.config import Config
from worldmodels.envs.spec import EnvSpec
from worldmodels.errors import UserError
from worldmodels.registry import backbone_class
from worldmodels.world_model import WorldModel

TOLERANCE = 0.03
"""Largest share by which a world model may miss the wanted number of parameters."""
STEPS = (8, 1)
"""Widths are multiples of the first that gives a fit; multiples of 8 keep every backbone quick."""
_LOOK_AHEAD = 64
"""Widths in a row that may not fit a backbone before the search gives up."""


@dataclass(frozen=True)
class Sized:
    """One row of a comparison: a backbone and a posterior at the width that was found."""

    name: str
    """The backbone's name, with ` (hx)` for that posterior."""
    config: Config
    option: str
    """The option that was solved for: `width` or `deter`."""
    parameters: int
    """Of the world model."""
    target: int

    @property
    def width(self) -> int:
        """What `option` was set to."""
        return getattr(self.config.backbone, self.option)

    @property
    def deviation(self) -> float:
        """Share by which the parameters miss the target; negative where there are fewer."""
        return self.parameters / self.target - 1


class Width(NamedTuple):
    """A width that fits, and the parameters that it gives."""

    width: int
    parameters: int


class Row:
    """A backbone and a posterior whose width is still to be found."""

    def __init__(self, config: Config, spec: EnvSpec, posterior: Literal["x", "hx"]):
        model = replace(config.world_model, posterior=posterior)
        self.config, self.spec = replace(config, world_model=model), spec
        self.name = row_name(config.backbone.name, posterior)
        self.option = width_option(config.backbone)
        self._counts: dict[int, int | None] = {}

    def at(self, width: int) -> Config:
        """The configuration of one width."""
        return replace(self.config, backbone=replace(self.config.backbone, **{self.option: width}))

    def count(self, width: int) -> int | None:
        """Parameters of the world model; None for a width that this backbone cannot have."""
        if width not in self._counts:
            try:
                self._counts[width] = count_parameters(self.at(width), self.spec)
            except (ValueError, UserError):
                self._counts[width] = None
        return self._counts[width]

    def nearest(self, target: int) -> Sized:
        """The width whose world model is nearest to `target` parameters."""
        found = nearest_width(self.count, target)
        if found is None:
            raise UserError(
                f"backbone {self.name} can be built with no {self.option} that was tried"
            )
        return Sized(self.name, self.at(found.width), self.option, found.parameters, target)


def equal_sizes(rows: Sequence[Row], target: int, exact: bool) -> list[Sized]:
    """Every row within `TOLERANCE` of `target`, or, unless `exact`, of a total near it."""
    for near in [target] if exact else _around_total(target):
        found = [row.nearest(near) for row in rows]
        if all(_fits(sized) for sized in found):
            return found
    worst = max((row.nearest(target) for row in rows), key=lambda sized: abs(sized.deviation))
    others = [t for t in _around_total(target) if all(_fits(row.nearest(t)) for row in rows)]
    raise UserError(
        f"backbone {worst.name} has no {worst.option} at which its world model has {target:,} "
        f"parameters within {TOLERANCE:.0%}: the nearest, {worst.option} {worst.width}, gives "
        f"{worst.parameters:,} ({worst.deviation:+.1%}); "
        + (f"--parameters {others[0]} suits all" if others else "choose another --parameters")
    )


def _fits(sized: Sized) -> bool:
    return abs(sized.deviation) <= TOLERANCE


def _around_total(target: int) -> list[int]:
    """`target`, then totals up to a quarter off, the nearest first."""
    shares = sorted(range(-25, 26), key=abs)
    return [target + target * share // 100 for share in shares]


def row_name(backbone: str, posterior: str) -> str:
    """`mamba2`, or `mamba2 (hx)`."""
    return backbone + (" (hx)" if posterior == "hx" else "")


def width_option(backbone: Any) -> str:
    """The field of a backbone's options that its size is solved by."""
    names = {field.name for field in fields(backbone)}
    for option in ("width", "deter"):
        if option in names:
            return option
    raise UserError(
        f"backbone {backbone.name} has no option to size it by: give {type(backbone).__name__} a "
        "whole number named `width`, from which its layers follow"
    )


def count_parameters(config: Config, spec: EnvSpec) -> int:
    """Parameters of the world model; nothing is allocated where the backbone allows that."""
    try:
        with torch.device("meta"):
            return _count(config, spec)
    except (NotImplementedError, RuntimeError):  # it reads its own values while it is built
        with torch.random.fork_rng(devices=[]):
            return _count(config, spec)


def _count(config: Config, spec: EnvSpec) -> int:
    kind, mix = backbone_class(config.backbone.name), 2 * config.world_model.hidden
    model = WorldModel(
        config.world_model, spec, kind(config.backbone, mix), discount=config.discount
    )
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def nearest_width(count: Callable[[int], int | None], target: int) -> Width | None:
    """The width whose `count` is nearest to `target`; `count` rises, and is None for no fit.

    Coarse widths are preferred where one of them lies within `TOLERANCE`.
    """
    found = []
    for step in STEPS:
        found += _around(count, target, step)
        best = min(found, key=lambda width: abs(width.parameters - target), default=None)
        if best is not None and abs(best.parameters / target - 1) <= TOLERANCE:
            return best
    return min(found, key=lambda width: abs(width.parameters - target), default=None)


def _around(count: Callable[[int], int | None], target: int, step: int) -> list[Width]:
    """The fitting multiples of `step` next below and above `target`, by bisection."""

    def at(place: int) -> Width | None:
        """The first that fits from `place * step` on."""
        for width in range(place * step, (place + _LOOK_AHEAD) * step, step):
            parameters = count(width)
            if parameters is not None:
                return Width(width, parameters)
        return None

    low, high = at(1), at(2)
    places = [1, 2]
    while high is not None and high.parameters < target:
        low, high = high, at(2 * places[1])
        places = [places[1], 2 * places[1]]
    while high is not None and places[1] - places[0] > 1:
        middle = sum(places) // 2
        found = at(middle)
        if found is None or found.parameters >= target:
            high, places[1] = found, middle
        else:
            low, places[0] = found, middle
    return [width for width in (low, high) if width is not None]
