"""``multiitem proxy``: a faulty server out of a good one."""

from __future__ import annotations

import typer


def proxy(context: typer.Context) -> None:
    """Put faults of the wire before any scoring server: --upstream URL --fault NAME (multiitem proxy --help)."""
    from pytest_multiitem.faults.proxy import proxy as run

    raise typer.Exit(run(context.args))
