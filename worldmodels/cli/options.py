"""Stage two of the command line: tyro lists and reads the options of the chosen dataclasses.

tyro tokenises and writes the help; the values stay text, and `config_file.from_dict` checks them,
so that a flag, a preset and a config file give the same error for the same mistake.
"""

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from worldmodels.cli.arguments import unexpected
from worldmodels.cli.choices import Choices, Request
from worldmodels.config import Config
from worldmodels.config_file import option_names, unknown_option
from worldmodels.errors import UserError
from worldmodels.kinds import kinds_with
from worldmodels.presets import Chosen

_ENV_FIRST = "the environment comes first, as in `worldmodels train catch --steps 1e4`"


_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", tuple[str, ...]: "A,B,..."}


class Given(tuple[str, ...]):
    """The words that followed an option."""


@dataclass(frozen=True)
class _Root:
    """Both groups of options, neither with a prefix."""

    choices: Annotated[Any, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
    config: Annotated[Any, tyro.conf.arg(name="")]


def flag(path: str) -> str:
    """The flag of a dotted option: `world_model.units` -> `--world-model.units`."""
    return "--" + path.replace("_", "-")


def flags(config: Any) -> list[str]:
    """Every flag of a dataclass; names that stage one settles are none."""
    return [flag(path) for path in option_names(config) if not path.endswith(".name")]


def apply_flags(chosen: Chosen, request: Request, command: str, choices: Choices) -> Config:
    """The chosen configuration with the flags over it; prints the help where that is wanted."""
    return chosen.with_options(_read_flags(chosen, request, command, choices), spell=flag)


def _read_flags(chosen: Chosen, request: Request, command: str, choices: Choices) -> dict[str, Any]:
    """The given options, nested by name, as text."""
    config = chosen.config
    parsed, unknown = tyro.cli(
        _Root,
        default=_Root(choices, config),
        args=request.rest,
        prog=f"worldmodels {command} [ENV]",
        description=_describe(chosen, choices),
        return_unknown_args=True,
        registry=_registry(),
    )
    if unknown:
        first = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise _refusal(first, [*flags(choices), *flags(config)], config)
    return _given(cast(Any, parsed)["config"], config, "")


def _refusal(word: str, names: list[str], config: Config) -> UserError:
    """The error for a word that is no option of what was chosen."""
    name = word.partition("=")[0]
    path = name.removeprefix("--").replace("-", "_")
    if path in ("env", "env.name"):
        return UserError(f"there is no option {name}: {_ENV_FIRST}")
    if path in option_names(config):
        by = "--backbone" if path == "backbone.name" else "a preset or a config file"
        return UserError(f"there is no option {name}: {by} chooses that")
    if kinds_with(path):
        return unknown_option(path, config, flag)
    return unexpected(word, names, _ENV_FIRST)


def _describe(chosen: Chosen, choices: Choices) -> str:
    config = chosen.config
    return (
        f"{inspect.getdoc(type(choices))} ENV comes first; `worldmodels envs` lists the names. "
        f"Below are the options of {config.env.name} and the backbone {config.backbone.name}, with "
        f"their values after: {'; '.join(chosen.notes)}. --debug shows the traceback of an error."
    )


def _given(parsed: dict[str, Any], config: Any, prefix: str) -> dict[str, Any]:
    """What differs from `config`, or was written down, of tyro's answer."""
    given = {}
    for name, value in parsed.items():
        current, path = getattr(config, name), f"{prefix}{name}"
        if is_dataclass(current):
            inner = _given(value, current, f"{path}.")
            if inner:
                given[name] = inner
        elif isinstance(value, Given):
            given[name] = _only(value, path)
        elif value != current:
            given[name] = value
    return given


def _only(words: Given, path: str) -> str:
    if not words:
        raise UserError(f"{flag(path)} needs a value")
    if len(words) > 1:
        raise UserError(f"{flag(path)} takes one value, not '{' '.join(words)}'; {_ENV_FIRST}")
    return words[0]


@cache
def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    registry.struct_rule(_options_as_dict)
    registry.primitive_rule(_value_as_text)
    return registry


def _options_as_dict(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass's options by name, without the `name` that picked it."""
    if not is_dataclass(info.type):
        return None
    types = get_type_hints(info.type, include_extras=True)
    docs = field_docs(info.type)
    return StructConstructorSpec(
        instantiate=dict,
        fields=tuple(
            StructFieldSpec(field.name, types[field.name], value, docs.get(field.name))
            for field in fields(info.type)
            if field.name != "name" and not _is_empty(value := getattr(info.default, field.name))
        ),
    )


def _is_empty(value: Any) -> bool:
    return is_dataclass(value) and not any(field.name != "name" for field in fields(value))


def _value_as_text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Any number of words, so that a missing or a second value gets an error of our own."""
    if get_origin(info.type) is Literal:
        metavar = "{" + ",".join(map(str, get_args(info.type))) + "}"
    elif info.type in _METAVARS:
        metavar = _METAVARS[info.type]
    else:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=Given,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [shown(value)],
    )


def shown(value: Any) -> str:
    """An option's value as one would type it."""
    return ",".join(value) if isinstance(value, tuple) else str(value) or "none"


@cache
def field_docs(config_class: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those of its bases included."""
    docs = {}
    for cls in reversed(config_class.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except OSError:  # made on the fly: an environment that is not here
            continue
        body = cast(ast.ClassDef, ast.parse(source).body[0]).body
        for field, doc in pairwise(body):
            match field, doc:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs[name] = " ".join(text.split())
    return docs
