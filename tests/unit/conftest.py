"""Fixtures of several unit tests."""

import shutil
import signal
import sys

import pytest
import typer
from evaluations import evaluated, joined, known, served  # noqa: F401

from pytest_multiitem import cli
from pytest_multiitem.signals import ENDING


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small checkpoint of the sizes of `engine_cases.SPEC`; not to be changed."""
    from engine_cases import SPEC

    from pytest_multiitem.engine.checkpoint import write_checkpoint

    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(directory, SPEC)
    return directory


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """The same with a classification head of three classes; not to be changed."""
    from dataclasses import replace

    from engine_cases import SPEC

    from pytest_multiitem.engine.checkpoint import write_checkpoint

    directory = tmp_path_factory.mktemp("checkpoint") / "classifier"
    write_checkpoint(directory, replace(SPEC, num_labels=3))
    return directory


@pytest.fixture
def weights(checkpoint, tmp_path):
    """A function (tensors, config changes) → a checkpoint directory with these tensors."""
    from engine_cases import edit_config
    from safetensors.numpy import save_file

    def write(tensors, **config):
        directory = tmp_path / "changed"
        shutil.copytree(checkpoint, directory)
        save_file(tensors, directory / "model.safetensors")
        edit_config(directory, **config)
        return directory

    return write


@pytest.fixture(scope="session")
def command_line():
    """The whole of ``multiitem``, put together once: to do so takes five times as long as most commands."""
    return typer.main.get_command(cli.app)


@pytest.fixture
def multiitem(monkeypatch, capsys, command_line):
    """Run ``multiitem`` with the given words; gives exit status, standard output and standard error."""
    monkeypatch.setattr(cli, "app", command_line)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["multiitem", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in ENDING}
        with pytest.raises(SystemExit) as caught:
            cli.main()
        for number, handler in handlers.items():  # the command line's process ends
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run
