"""Stage one of the command line: what decides which other options there are.

The environment, the presets, the config file and the backbone are read first; only then are the
dataclasses known whose options stage two (`worldmodels.cli.options`) lists and reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from worldmodels.cli.arguments import Parser
from worldmodels.errors import UserError
from worldmodels.presets import Chosen, choose_config


@dataclass(frozen=True)
class Choices:
    """Options of the command itself; a subclass adds its own, a docstring under each."""

    preset: tuple[str, ...] = ()
    """Presets, stacked left to right; without any, those that suit environment and device."""
    config: str = ""
    """YAML file of options; they go over the presets."""
    backbone: str = ""
    """Sequence backbone: a name, file.py:Class or package.module:Class."""


AnyChoices = TypeVar("AnyChoices", bound=Choices)


@dataclass(frozen=True)
class Request:
    """A command line `[ENV] [OPTIONS]` after stage one."""

    env: str | None
    device: str
    """`--device`, which default presets depend on; it is still in `rest`."""
    rest: list[str]
    """What is left for stage two."""
    offline: bool = False
    """Whether `--offline` names a data set; the environment may then be missing."""

    @property
    def wants_help(self) -> bool:
        """Whether stage two will print the help and leave."""
        return "-h" in self.rest or "--help" in self.rest


def read_choices(
    argv: Sequence[str], command: str, kind: type[AnyChoices]
) -> tuple[AnyChoices, Request]:
    """Stage one; the environment can only come first, where no option can claim it."""
    args = list(argv)
    env = args.pop(0) if args and not args[0].startswith("-") else None
    parser = Parser(command, add_help=False)
    for field in fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        if field.default is False:
            parser.add_argument(flag, action="store_true")
        elif field.default == ():
            parser.add_argument(flag, action="extend", nargs="+", default=[])
        else:
            parser.add_argument(flag, default=field.default, type=type(field.default))
    known, rest = parser.parse_known_args(args)
    values: dict[str, Any] = vars(known)
    values["preset"] = tuple(values["preset"])
    peek = Parser(command, add_help=False)
    peek.add_argument("--device", nargs="?", default="auto", const="auto")
    peek.add_argument("--offline", nargs="?")
    seen = peek.parse_known_args(rest)[0]
    if seen.offline == "":
        raise UserError("--offline is empty; name a data set, or leave the option out")
    return kind(**values), Request(env, seen.device, rest, bool(seen.offline))


def choose(choices: Choices, request: Request, default_env: str | None = None) -> Chosen:
    """The configuration that stage two starts from."""
    return choose_config(
        request.env or (None if choices.config else default_env),
        choices.preset or None,
        choices.config or None,
        choices.backbone or None,
        device=request.device,
        look_for_gpu=not request.wants_help,
        offline=request.offline,
    )
