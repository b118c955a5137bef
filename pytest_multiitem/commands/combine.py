"""``multiitem combine``: two evaluations, joined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError


def combine(
    multi: Annotated[Path, typer.Option(help="Evaluation of the multi-item server.")],
    serial: Annotated[Path, typer.Option(help="Evaluation of the serial server.")],
    output_json: Annotated[Path, typer.Option(help="Where the combined results are written.")],
    torch_serial: Annotated[
        Path | None, typer.Option(help="Evaluation of a serial server that runs PyTorch: the torch reference.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compute the torch reference with transformers: directory or hub id."),
    ] = None,
) -> None:
    """Join the evaluations of a multi-item and a serial server, and compare with a torch reference."""
    from pytest_multiitem.evaluation import combine as joining
    from pytest_multiitem.evaluation import validity
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.results.store import write_record

    if torch_serial is not None and reference is not None:
        raise UsageError("--torch-serial and --reference are two ways to one torch reference; give one of them")
    check_writable(output_json)
    ours, theirs = validity.open_side(multi, "multi"), validity.open_side(serial, "serial")
    validity.check_same_requests(ours, theirs)
    torch = None
    if torch_serial is not None or reference is not None:
        from pytest_multiitem.evaluation import reference as references

        if torch_serial is not None:
            side = validity.open_side(torch_serial, "serial")
            validity.check_same_requests(theirs, side, timed=False)
            torch = references.from_evaluation(side)
        elif reference is not None:
            torch = references.from_transformers(reference, theirs)
    write_record(output_json, joining.combine(ours, theirs, torch))
    for side in (ours, theirs):
        if side.evaluation.failure is not None:
            typer.echo(f"multiitem: {side.path} ended early; gates that need the rest will fail", err=True)
    typer.echo(f"wrote {output_json}")
