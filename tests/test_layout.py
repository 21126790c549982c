"""The house: packages, who may import whom, import guards, a command line without torch."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"worldmodels": ROOT / "worldmodels"} | {
    f"worldmodels.{name}": ROOT / name for name in ("backbones", "envs", "kernels")
}

MATHS = {"backbones", "kernels", "config", "envs.spec", "distributions", "objects"}
MAY_IMPORT = {
    "kernels": set(),
    "envs": set(),
    "backbones": {"kernels"},
    "backbones.configs": set(),
    "errors": {"envs.errors"},
    "bounds": {"errors"},
    "dreamer_options": {"bounds", "errors"},
    "optimizer_options": {"bounds"},
    "iql_options": {"bounds"},
    "policy": {"distributions", "envs.spec", "heads"},
    "iql": MATHS
    | {"heads", "iql_options", "policy", "sockets", "values.configs"}
    | {"values.ensemble"},
    "control.options": {"bounds", "errors"},
    "kinds": {
        "control.options",
        "dreamer_options",
        "errors",
        "iql_options",
        "known_options",
        "optimizer_options",
        "registry",
    },
    "config": {
        "backbones.configs",
        "bounds",
        "dreamer_options",
        "envs.configs",
        "errors",
        "optimizer_options",
        "parts",
        "values.configs",
    },
    "parts": {"errors", "registry"},
    "registry": {"backbones.configs", "errors"},
    "objects": {"backbones.base"},
    "distributions": set(),
    "returns": set(),
    "optim": set(),
    "losses": {"distributions"},
    "heads": {"backbones.layers"},
    "encoders": MATHS,
    "decoders": MATHS | {"encoders"},
    "dynamics": MATHS,
    "sockets": MATHS,
    "known_options": set(),
    "true_dynamics": MATHS | {"envs", "errors", "known_options", "observed"},
    "world_model": MATHS
    | {
        "encoders",
        "decoders",
        "dynamics",
        "errors",
        "heads",
        "losses",
        "registry",
        "repo",
        "sockets",
    },
    "repo": set(),
    "imagination": {"objects", "sockets"},
    "values": MATHS | {"dreamer_options", "parts", "heads"},
    "values.configs": {"bounds", "errors", "parts"},
    "actor_critic": MATHS
    | {"losses", "parts", "policy", "returns", "sockets", "values.configs", "values.reach"},
    "optimizer": {"errors", "kinds", "sockets"},
    "observed": MATHS | {"backbones.configs", "errors", "sockets"},
    "control": MATHS | {"errors", "observed", "sockets", "values.configs", "values.reach"},
    "learner": MATHS | {"imagination", "kinds", "optimizer", "sockets"},
    "replay": {"backbones.base", "envs.spec", "errors", "files", "objects", "parts"},
    "offline.collect": {"agent", "collector", "envs", "errors", "evaluation", "offline", "replay"}
    | {"runtime", "worldmodels"},
    "offline.levels": {"errors", "replay", "runtime.checkpoint"},
    "offline": {"config", "config_file", "envs", "errors", "files", "replay"},
}
"""Longest prefix counts; every part may import itself. What is not listed stands above them all."""

OTHERS = {"kernels": {"torch", "triton"}, "backbones": {"torch", "einops"}}
"""The only foreign packages of a folder."""
SLOW = {"torch", "lightning", "numpy", "gymnasium"}
QUICK = (
    "",
    "cli",
    "config",
    "errors",
    "registry",
    "backbones.configs",
    "envs.configs",
    "values.configs",
    "control.options",
    "kinds",
)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@cache
def modules() -> dict[str, ast.Module]:
    """Name below `worldmodels` ("" for the package itself) -> syntax tree."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = [*package.split(".")[1:], *file.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = ast.parse(file.read_text())
    return found


def imports(nodes) -> set[str]:
    """Full names of the modules that import statements among `nodes` load."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            module = node.module or ""
            below = {f"{module}.{alias.name}" for alias in node.names}
            known = {f"worldmodels.{name}" for name in modules()}
            found |= (below & known) or {module}
    return found


def ours(names: set[str]) -> set[str]:
    return {name.removeprefix("worldmodels.") for name in names if within(name, "worldmodels")}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_run_downwards(layer):
    allowed = MAY_IMPORT[layer] | {layer}
    covered = False
    for name, tree in modules().items():
        prefixes = [prefix for prefix in MAY_IMPORT if within(name, prefix)]
        if max(prefixes, key=len, default=None) != layer:
            continue
        covered = True
        breaches = {
            found
            for found in ours(imports(ast.walk(tree)))
            if not any(within(found, prefix) for prefix in allowed)
        }
        assert not breaches, f"{name} may not import {breaches}"
    assert covered, f"nothing is called {layer}"


def test_only_the_command_line_imports_itself():
    for name, tree in modules().items():
        if not (within(name, "cli") or name == "__main__"):
            above = {x for x in ours(imports(ast.walk(tree))) if within(x, "cli")}
            assert not above, f"{name} imports {above}"


def test_imports_have_no_circle():
    graph = {name: ours(imports(tree.body)) & modules().keys() for name, tree in modules().items()}
    TopologicalSorter(graph).prepare()


def test_foreign_packages():
    for name, tree in modules().items():
        folder = name.partition(".")[0]
        foreign = {found.partition(".")[0] for found in imports(ast.walk(tree))}
        foreign -= {"worldmodels", *sys.stdlib_module_names}
        if folder in OTHERS:
            assert foreign <= OTHERS[folder], f"{name} imports {foreign - OTHERS[folder]}"
        if folder == "envs":
            assert not foreign & {"torch", "lightning"}, name
        if any(within(name, quick) for quick in QUICK):
            slow = {found.partition(".")[0] for found in imports(tree.body)} & SLOW
            assert not slow, f"{name} imports {slow} before it is needed"


def test_packages_are_the_folders_with_an_init():
    """A sub-package that pyproject.toml forgets would be missing in the wheel only."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for package, folder in FOLDERS.items():
        for file in folder.rglob("__init__.py"):
            found.add(".".join([package, *file.parent.relative_to(folder).parts]))
        assert ROOT / settings["package-dir"][package] == folder
    assert sorted(settings["packages"]) == sorted(found)


@pytest.mark.parametrize("folder", ["backbones", "envs", "kernels"])
def test_a_folder_is_imported_by_its_full_name(folder):
    """`import kernels` from the root would make a second copy of every class."""
    code = [sys.executable, "-c", f"import {folder}"]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: import worldmodels.{folder}: the folder {folder}/")


def test_the_command_line_needs_nothing_slow():
    """What `--help` loads: seconds of imports would be paid before the first line."""
    names = ["worldmodels", "worldmodels.cli"] + [
        f"worldmodels.{name}"
        for name in ("config", "registry", "errors", "presets", "backbones.configs")
    ]
    names += ["worldmodels.envs.configs", "worldmodels.envs.registry"]
    code = f"import sys, {', '.join(names)}; print(*sorted({SLOW!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_files_are_one_idea_long():
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            lines = len(file.read_text().splitlines())
            assert lines <= 300 or package == "worldmodels.kernels", (file, lines)
            assert file.stem not in ("utils", "tools", "common"), file


def test_public_names_resolve():
    worldmodels: Any = import_module("worldmodels")
    for name in worldmodels.__all__:
        assert getattr(worldmodels, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Agnet'"):
        _ = worldmodels.Agnet
