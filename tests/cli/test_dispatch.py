"""The dispatcher: help without heavy imports, near names, exit codes, tracebacks."""

import os
import subprocess
import sys

import pytest

from worldmodels import __version__
from worldmodels.cli import COMMANDS
from worldmodels.cli import envs as envs_command
from worldmodels.errors import Stopped


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "atari:Pong", "-h"]]
)
def test_help_imports_nothing_heavy(arguments):
    program = f"""
import sys
from worldmodels.cli import main
try:
    main({arguments})
except SystemExit as left:
    assert not left.code
heavy = {{"torch", "lightning", "numpy", "gymnasium"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "worldmodels" in done.stdout


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_spin_briefly_unless_told_otherwise(call, monkeypatch, given, spins):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "to be put back")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    call("--version")
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_help_lists_every_command(call):
    answer = call("--help")
    assert answer.code == 0
    assert all(f"  {name} " in answer.out for name in COMMANDS)
    assert call() == answer


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train"}))
def test_every_command_has_help(call, command):
    answer = call(command, "--help")
    assert answer.code == 0
    assert f"usage: worldmodels {command}" in answer.out


def test_version(call):
    assert call("--version").out == f"worldmodels {__version__}\n"


def test_a_near_command_is_named(refuse):
    assert "did you mean 'train'?" in refuse("tran", "catch")
    assert "there are train, collect, eval" in refuse("xyzzy")
    assert "did you mean 'replay'?" in refuse("bench", "replaay")
    assert "did you mean '--episodes'?" in refuse("eval", "x", "--episode", "3")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RuntimeError("it\nbroke"), 1, "error: RuntimeError: it broke; run again with --debug"),
        (ValueError(), 1, "error: ValueError: no message; run again"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped("stopped, and saved", 15), 143, "stopped, and saved"),
    ],
)
def test_errors_are_one_sentence(call, monkeypatch, error, code, text):
    def fail(argv):
        raise error

    monkeypatch.setattr(envs_command, "run", fail)
    answer = call("envs")
    assert answer.code == code
    assert answer.err.startswith(text)
    assert answer.err.count("\n") == 1
    assert "Traceback" in call("envs", "--debug").err


def test_debug_shows_where_a_user_error_comes_from(call):
    answer = call("train", "ctch", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert answer.err.splitlines()[-1].startswith("error: ")
