"""``multiitem serve``, ``proxy`` and ``faults``: servers, and what can be wrong with them on purpose."""

from __future__ import annotations

import typer


def serve(context: typer.Context) -> None:
    """Serve a Qwen3 checkpoint with the embedded engine; takes sgl-jax's flags (multiitem serve --help)."""
    from pytest_multiitem.engine.serve import serve as run

    raise typer.Exit(run(context.args))


def proxy(context: typer.Context) -> None:
    """Put faults of the wire before any scoring server: --upstream URL --fault NAME (multiitem proxy --help)."""
    from pytest_multiitem.faults.proxy import proxy as run

    raise typer.Exit(run(context.args))


def faults() -> None:
    """List the faults that multiitem serve and multiitem proxy can have."""
    from pytest_multiitem.faults.catalogue import catalogue
    from pytest_multiitem.reports.faults import listing

    typer.echo(listing(catalogue()), nl=False)
