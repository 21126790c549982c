"""`call("train", "catch", ...)` runs the command line in this process."""

from typing import NamedTuple

import pytest

from worldmodels.cli import main


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """The command line, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Answer:
        with pytest.raises(SystemExit) as left:
            main(argv)
        code = left.value.code or 0
        assert isinstance(code, int)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def refuse(call):
    """`refuse("train", "ctch")` is the one sentence that a bad command line gets."""

    def run(*argv: str) -> str:
        answer = call(*argv)
        assert answer.code == 2
        assert answer.err.startswith("error: ")
        assert answer.err.count("\n") == 1, answer.err
        assert "Traceback" not in answer.out + answer.err
        return answer.err

    return run
