"""Fixtures of several unit tests."""

import sys

import pytest
from evaluations import evaluated, joined, known, served  # noqa: F401

from pytest_multiitem import cli


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small checkpoint of the sizes of `engine_cases.SPEC`; not to be changed."""
    from engine_cases import SPEC

    from pytest_multiitem.engine.checkpoint import write_checkpoint

    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(directory, SPEC)
    return directory


@pytest.fixture
def multiitem(monkeypatch, capsys):
    """Run ``multiitem`` with the given words; gives exit status, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["multiitem", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run
