"""The options of the plugin, as pytest knows them."""

from __future__ import annotations

import argparse
from functools import partial
from itertools import pairwise

import pytest

from pytest_multiitem.settings.option import Option
from pytest_multiitem.settings.parsers import SWITCH_WORDS
from pytest_multiitem.settings.settings import OPTIONS


def add_options(parser: pytest.Parser) -> None:
    """Register every setting under its canonical name, and its ini value."""
    for option in OPTIONS:
        text = f"{option.help} [env {option.variable}, ini {option.ini}]".replace("%", "%%")
        _add(parser, option, option.flag, text)
        parser.addini(option.ini, option.help, type="string", default=None)


def add_short_options(parser: pytest.Parser) -> list[str]:
    """Register the short names that are still free once every other plugin and conftest has had its say.

    Returns a line for each that is not.
    """
    notes = []
    for option in (option for option in OPTIONS if option.short):
        try:
            _add(parser, option, option.short_flag, f"the same as {option.flag}")
        except (ValueError, argparse.ArgumentError):  # taken: within our group, or in another one
            notes.append(f"{option.short_flag} belongs to another plugin here; use {option.flag}")
    return notes


def _add(parser: pytest.Parser, option: Option, name: str, text: str) -> None:
    group = parser.getgroup(f"multiitem {option.topic}", f"multi-item scoring validation: {option.topic}")
    add = partial(group.addoption, dest=option.ini, default=None)
    if not option.is_switch:
        add(name, metavar=option.metavar, help=text)
        return
    add(name, action="store_true", help=text)
    for value, words in SWITCH_WORDS.items():  # NAME=0 is an option of its own: what may follow NAME is a path
        add(*(f"{name}={word}" for word in words), action="store_const", const=value, help=argparse.SUPPRESS)


def hide_option_values(early_config: pytest.Config, arguments: list[str]) -> None:
    """Keep ``jax`` of ``--backend jax`` from being taken for the path to look for conftests at.

    Short names are registered after the conftests are loaded, so pytest does not know them before.
    """
    paths = early_config.known_args_namespace.file_or_dir
    names = {option.short_flag for option in OPTIONS if option.short and not option.is_switch}
    for name, value in pairwise(arguments):
        if name in names and value in paths and not value.startswith("-"):
            paths.remove(value)
