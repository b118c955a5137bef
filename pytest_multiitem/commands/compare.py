"""``multiitem compare``: a comparison, measured without pytest, or compared again from its matrices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import AllowInconclusive, takes_run_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError


@takes_run_options
def compare_run(given: Mapping[str, str | None]) -> None:
    """Measure the comparison and decide. Takes the options of a run: --backend, --model, --multiitem-views,
    --multiitem-compare-chunk-sizes all, --compare-dir, …

    Exit status 0: every side was measured and the scores agree. 1: a side is missing, a row failed, or correctness
    is not shown. 2: it could not begin. An interrupted comparison goes on when the command is typed again. With
    --executor ray each side is measured on a node, and their runs are not paired.
    """
    from pytest_multiitem.adapters.base import check_backends, choose_engine
    from pytest_multiitem.comparison.gate_verdicts import exit_status
    from pytest_multiitem.comparison.measuring.runner import compare
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.comparison import comparison_lines, publish
    from pytest_multiitem.settings.project_file import project_settings
    from pytest_multiitem.settings.resolve import resolve
    from pytest_multiitem.traffic.loading import fitted

    settings = fitted(resolve(given, {}, project=project_settings(Path.cwd())))
    check_backends(settings)
    engine = choose_engine(settings.engine)
    settings = engine.with_own_names(settings)
    try:
        with ProgressBar() as bar:
            outcome = compare(settings, engine, Path.cwd(), bar, publish)
    except KeyboardInterrupt:
        say("interrupted; what is measured is kept: the same command goes on from there", err=True)
        raise
    for line in comparison_lines(outcome.comparison):
        say(line)
    if outcome.unwritten is not None:
        raise outcome.unwritten
    status, reasons = exit_status(outcome, settings)
    for reason in reasons:
        say(f"multiitem: {reason}", err=True)
    directory, here = outcome.directory, Path.cwd()
    say(f"results: {directory.relative_to(here) if directory.is_relative_to(here) else directory}/")
    raise typer.Exit(status)


def compare_files(
    matrices: Annotated[
        list[Path], typer.Argument(metavar="MATRIX…", help="score_matrix_v1 files, one a side and view.")
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the comparison and its reports go.")] = Path(),
    blocker: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why a side is missing, for the reports: quota, capacity, …")
    ] = None,
    max_abs: Annotated[
        float | None,
        typer.Option(
            "--correctness-threshold-max-abs",
            min=0,
            max=1,
            metavar="X",
            help="Largest score difference, else 0.02.",
        ),
    ] = None,
    mean_abs: Annotated[
        float | None,
        typer.Option(
            "--correctness-threshold-mean-abs", min=0, max=1, metavar="X", help="Mean score difference, else 0.01."
        ),
    ] = None,
    title_date: Annotated[
        str | None, typer.Option(metavar="DATE", help="Stands in the title of the final report.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run whose NOT_RUN and FAIL on the segment mask stand in the final report."),
    ] = None,
    allow_inconclusive: AllowInconclusive = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a comparison that is there.")] = False,
) -> None:
    """Compare measured matrices; write comparison.json, comparison.md and final_report.md.

    Deltas are relative to PyTorch. Exit status 0: the comparison is complete and every
    correctness check is a PASS. 1: one is FAIL or INCONCLUSIVE, or a side is missing. 2: a file cannot be used.
    """
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison.decision.compare import compare, exit_status
    from pytest_multiitem.comparison.decision.guardrail import thresholds
    from pytest_multiitem.comparison.files import FILES
    from pytest_multiitem.comparison.gate_verdicts import limitations
    from pytest_multiitem.comparison.records import ScoreMatrix, Thresholds
    from pytest_multiitem.reports.comparison import comparison_lines, write
    from pytest_multiitem.results.store import matrix_file, read_matrix
    from pytest_multiitem.validation.validate import refuse_contradictions

    read = [(path, artefacts.read(path, ScoreMatrix).record) for path in matrices]
    for path in matrices:
        refuse_contradictions(path)
    there = [str(output_dir / name) for name in FILES if (output_dir / name).exists()]
    if there and not force:
        raise UsageError(f"{', '.join(there)} exists; give another --output-dir, or --force to overwrite")
    usual = thresholds()
    limits = Thresholds(
        max_abs_diff=usual.max_abs_diff if max_abs is None else max_abs,
        mean_abs_diff=usual.mean_abs_diff if mean_abs is None else mean_abs,
    )
    gates = []
    if run is not None:
        refuse_contradictions(matrix_file(run))
        gates = read_matrix(run).gates
    comparison = compare(read, blocker=blocker, limits=limits)
    comparison.limitations = limitations(gates)
    written = write(output_dir, comparison, [matrix for _, matrix in read], title_date=title_date)
    for line in comparison_lines(comparison):
        say(line)
    say(f"wrote {', '.join(map(str, written))}")
    raise typer.Exit(exit_status(comparison, allow_inconclusive=allow_inconclusive))
