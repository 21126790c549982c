"""YAML in which no key stands twice: of two values, nobody could tell which one holds.

Imports neither numpy nor an environment.
"""

from pathlib import Path
from typing import Any

import yaml

from worldmodels.envs.errors import UserError


def read_yaml(path: Path, what: str) -> Any:
    """The plain data in a file; a UserError names the file, which should be a `what`."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no {what}: it is not text") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML{_place(error)}; correct it there") from error


def parse_yaml(text: str) -> Any:
    """The plain data in a text; yaml.YAMLError where it is wrong."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one, but for equal keys, of which it lets the last win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.tag, key.value
            if name in lines:
                raise yaml.constructor.ConstructorError(
                    problem=f"'{key.value}' was given at line {lines[name]} already",
                    problem_mark=key.start_mark,
                )
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f" at line {mark.line + 1} ({problem})" if mark and problem else ""
