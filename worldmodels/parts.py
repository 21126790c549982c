"""Parts by name: replay retentions, samplers and value learners, all of which may be plug-ins.

Imports neither torch nor numpy, so that the command line can check a name at once.
"""

import re
from importlib.metadata import entry_points
from typing import Any

from worldmodels.errors import UserError, near
from worldmodels.registry import load

RETENTIONS = {
    "fifo": "worldmodels.replay.retention:Fifo",
    "reservoir": "worldmodels.replay.retention:Reservoir",
    "reward_weighted": "worldmodels.replay.retention:RewardWeighted",
    "coverage": "worldmodels.replay.coverage:Coverage",
    "wmar": "worldmodels.replay.union:Wmar",
}
SAMPLERS = {
    "uniform": "worldmodels.replay.sampling:Uniform",
    "recency": "worldmodels.replay.sampling:Recency",
    "dfs": "worldmodels.replay.dfs:Dfs",
}
VALUES = {
    "plain": "worldmodels.values.critics:Critics",
    "ravl": "worldmodels.values.critics:Critics",
}
CARRIES = ("auto", "stored", "zero", "continue")
_SHARE = re.compile(r"(.+):(\d*\.?\d+)")


def retention_class(name: str) -> Any:
    """The class of the retention `name`; imports numpy."""
    return _find("replay retention", name, RETENTIONS)


def sampler_class(name: str) -> Any:
    """The class of the sampler `name`; imports numpy."""
    return _find("replay sampler", name, SAMPLERS)


def values_class(name: str) -> Any:
    """The class of the value learner `name`; imports torch."""
    return _find("value learner", name, VALUES)


def parse_carry(text: str) -> tuple[str, int]:
    """`auto`, `stored`, `zero`, `continue` or `burnin:K` -> its name and K, else 0."""
    name, _, rows = text.partition(":")
    if name == "burnin" and rows.isdecimal() and int(rows) > 0:
        return name, int(rows)
    if text not in CARRIES:
        raise UserError(
            f"--replay.carry={text} is not one of {', '.join(CARRIES)}, burnin:K (K leading rows)"
            f"{near(text, (*CARRIES, 'burnin:8'))}"
        )
    return text, 0


def parse_sampling(text: str) -> dict[str, float]:
    """`uniform`, or `uniform:0.8+recency:0.2` -> sampler and share; a share left out is 1."""
    shares: dict[str, float] = {}
    for word in text.split("+"):
        found = _SHARE.fullmatch(word.strip())
        name, share = (found[1], float(found[2])) if found else (word.strip(), 1.0)
        misspelt = name.partition(":")[0] in SAMPLERS and ":" in name
        if share <= 0 or name in shares or misspelt:
            raise UserError(
                f"--replay.sampling={text} must name different samplers with shares above 0, as "
                "uniform:0.8+recency:0.2"
            )
        shares[name] = share
    return shares


def check_retention(name: str) -> None:
    """UserError for a name that is no retention's; nothing is imported."""
    _check("replay retention", name, RETENTIONS)


def check_sampling(text: str) -> None:
    """UserError for a text that is not made of samplers' names; nothing is imported."""
    for name in parse_sampling(text):
        _check("replay sampler", name, SAMPLERS)


def check_values(name: str) -> None:
    """UserError for a name that is no value learner's; nothing is imported."""
    _check("value learner", name, VALUES)


def _names(kind: str, built_in: dict[str, str]) -> list[str]:
    return [*built_in, *sorted(point.name for point in entry_points(group=_group(kind)))]


def _group(kind: str) -> str:
    return f"worldmodels.{kind.removeprefix('replay ').replace(' ', '_')}s"


def _check(kind: str, name: str, built_in: dict[str, str]) -> None:
    names = _names(kind, built_in)
    if name not in names and ":" not in name:
        raise UserError(
            f"no {kind} '{name}'{near(name, names)}; there are {', '.join(names)}, or a "
            "path file.py:Class or package.module:Class"
        )


def _find(kind: str, name: str, built_in: dict[str, str]) -> Any:
    _check(kind, name, built_in)
    if name in built_in:
        return load(built_in[name])
    for point in entry_points(group=_group(kind), name=name):
        return point.load()
    return load(name)
