"""What commands print: text, whoever's words it holds."""

from __future__ import annotations

import sys

import typer

from pytest_multiitem.reports.colours import coloured, wanted
from pytest_multiitem.untrusted.words import plain_lines


def say(text: str, *, err: bool = False) -> None:
    """A line, or lines, on standard output or standard error; verdicts in colour where these are shown."""
    shown, colours = plain_lines(text), wanted(sys.stderr if err else sys.stdout)
    typer.echo(coloured(shown) if colours else shown, err=err, color=colours)
