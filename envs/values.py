"""An option's value, plain data or text, as the type of its field; the same for every option.

Standard library only.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from worldmodels.envs.errors import UserError, near


def read_value(value: Any, kind: Any, name: str) -> Any:
    """`value` as the type `kind`; numbers may be text, because YAML reads `1e5` as text.

    Raises UserError that calls the option `name`.
    """
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(choice) == str(value):
                return choice
        choices = [str(choice) for choice in get_args(kind)]
        raise UserError(
            f"{name} is one of {', '.join(choices)}, not {value!r}{near(str(value), choices)}"
        )
    if kind not in _READERS:
        return value  # a plug-in's own type, which its dataclass checks
    described, read = _READERS[kind]
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name} is {described}, not {value!r}") from error


def whole_number(value: Any) -> int:
    """`value`, a number or its text, as an int; ValueError where it has a fraction."""
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return value if isinstance(value, int) else int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _instance_of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return read


def _names(value: Any) -> tuple[str, ...]:
    # Commas within braces belong to a mapping, such as a task with options.
    words = re.split(r",(?![^{}]*\})", value) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
        raise ValueError
    return tuple(word.strip() for word in words)


_READERS: Mapping[Any, tuple[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        int: ("a whole number", whole_number),
        float: ("a number", _number),
        str: ("text", _instance_of(str)),
        bool: ("true or false", _instance_of(bool)),
        tuple[str, ...]: ("a list of names, as a,b,c", _names),
    }
)
