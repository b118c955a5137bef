"""What commands print: text, whoever's words it holds."""

from __future__ import annotations

import typer

from pytest_multiitem.untrusted.words import plain_lines


def say(text: str, *, err: bool = False) -> None:
    """A line, or lines, on standard output or standard error."""
    typer.echo(plain_lines(text), err=err)
