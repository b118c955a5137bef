"""The options of the plugin, as pytest knows them."""

from __future__ import annotations

import argparse
from itertools import pairwise

import pytest

from pytest_multiitem.settings.table import OPTIONS

_GROUP = "multiitem"


def add_options(parser: pytest.Parser) -> None:
    """Register every setting under its canonical name, and its ini value."""
    group = parser.getgroup(_GROUP, "multi-item scoring validation")
    for option in OPTIONS:
        text = f"{option.help} [env {option.variable}, ini {option.ini}]".replace("%", "%%")
        if option.is_flag:
            group.addoption(option.flag, dest=option.ini, action="store_true", default=None, help=text)
        else:
            group.addoption(option.flag, dest=option.ini, default=None, metavar=option.metavar, help=text)
        parser.addini(option.ini, option.help, type="string", default=None)


def add_short_options(parser: pytest.Parser) -> list[str]:
    """Register the short names that are still free once every other plugin and conftest has had its say.

    Returns a line for each that is not.
    """
    group = parser.getgroup(_GROUP)
    notes = []
    for option in OPTIONS:
        if not option.short:
            continue
        text = f"the same as {option.flag}"
        try:
            if option.is_flag:
                group.addoption(option.short_flag, dest=option.ini, action="store_true", default=None, help=text)
            else:
                group.addoption(option.short_flag, dest=option.ini, default=None, metavar=option.metavar, help=text)
        except (ValueError, argparse.ArgumentError):  # taken: within our group, or in another one
            notes.append(f"{option.short_flag} belongs to another plugin here; use {option.flag}")
    return notes


def hide_option_values(early_config: pytest.Config, arguments: list[str]) -> None:
    """Keep ``jax`` of ``--backend jax`` from being taken for the path to look for conftests at.

    Short names are registered after the conftests are loaded, so pytest does not know them before.
    """
    paths = early_config.known_args_namespace.file_or_dir
    names = {option.short_flag for option in OPTIONS if option.short and not option.is_flag}
    for name, value in pairwise(arguments):
        if name in names and value in paths and not value.startswith("-"):
            paths.remove(value)
