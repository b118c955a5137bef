"""``multiitem faults``: the faults that a server can be given on purpose."""

from __future__ import annotations

import typer


def faults() -> None:
    """List the faults that multiitem serve and multiitem proxy can have."""
    from pytest_multiitem.faults.catalogue import catalogue
    from pytest_multiitem.reports.faults import listing

    typer.echo(listing(catalogue()), nl=False)
