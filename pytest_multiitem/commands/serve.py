"""``multiitem serve``: the embedded engine as a server."""

from __future__ import annotations

import typer


def serve(context: typer.Context) -> None:
    """Serve a Qwen3 checkpoint with the embedded engine; takes sgl-jax's flags (multiitem serve --help)."""
    from pytest_multiitem.engine.serve import serve as run

    raise typer.Exit(run(context.args))
