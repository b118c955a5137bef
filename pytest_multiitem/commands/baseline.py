"""``multiitem baseline …``: saved baselines without pytest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_multiitem.commands.options import DEFAULTS, AllowInconclusive, parse_value
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.comparison.records import ScoreMatrix
    from pytest_multiitem.results.records import Matrix

_Name = Annotated[str, typer.Argument(help="A baseline's name.")]
_NameOrFile = Annotated[str, typer.Argument(help="A baseline's name, or its file.")]
_Sources = Annotated[
    list[Path],
    typer.Argument(metavar="RUN_OR_MATRIX…", help="A run's or a comparison's directory, or the matrix files of one."),
]
_ResultsDir = Annotated[Path, typer.Option(metavar="DIR", help="Where baselines are kept, in baselines/.")]


def baseline_save(name: _Name, sources: _Sources, results_dir: _ResultsDir = DEFAULTS.results_dir) -> None:
    """Save the timings of a finished run, or of a comparison, under a new name.

    Exit status 1 where the run failed, is incomplete or timed nothing: such a run does not become a baseline.
    """
    from pytest_multiitem.baselines import saving, store
    from pytest_multiitem.baselines.timings import timings_of

    run, matrices = _read(sources)
    timings = timings_of(run, matrices)
    refusal = saving.refusal(run, matrices, timings)
    if refusal is not None:
        say(f"multiitem: baseline {name} NOT saved: {refusal}", err=True)
        raise typer.Exit(1)
    path = store.write(results_dir, store.baseline_of(name, timings), replace=False)
    say(f"saved {len(timings.cells)} timings: {path}")


def baseline_check(
    name: _NameOrFile,
    sources: _Sources,
    fail_if: Annotated[
        str, typer.Option(metavar="CONDITION,…", help="What a regression is, e.g. 'p95 > 15%, p50 > 10%'.")
    ] = ", ".join(DEFAULTS.fail_if),
    allow_inconclusive: AllowInconclusive = False,
    results_dir: _ResultsDir = DEFAULTS.results_dir,
) -> None:
    """Judge the timings of a finished run, or of a comparison, against a baseline.

    Exit status 0: no regression. 1: a regression, a timing that is missing or of something else, or INCONCLUSIVE.
    2: a file cannot be used.
    """
    from pytest_multiitem.baselines import store
    from pytest_multiitem.baselines.judging import evidence_lines, judge
    from pytest_multiitem.baselines.timings import timings_of
    from pytest_multiitem.reports.baseline import baseline as table
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.records import Verdict
    from pytest_multiitem.settings import conditions

    wanted = [conditions.parse(text) for text in parse_value("--fail-if", "fail_if", fail_if)]
    path = store.find(name, results_dir, Path.cwd())
    record = judge(store.read(path), timings_of(*_read(sources)), wanted, name=path.stem)
    for line in (*terminal_table(*table([record])), *evidence_lines(record)):
        say(line)
    say(f"{record.verdict.value}: {record.reason}")
    passing = {Verdict.PASS, Verdict.INCONCLUSIVE} if allow_inconclusive else {Verdict.PASS}
    raise typer.Exit(0 if record.verdict in passing else 1)


def baseline_list(results_dir: _ResultsDir = DEFAULTS.results_dir) -> None:
    """List the saved baselines. Exit status 2 where one of them cannot be read."""
    from pytest_multiitem.baselines import store

    known = store.names(results_dir)
    for name in known:
        saved = store.read(store.find(name, results_dir, Path.cwd()))
        say(f"{name}: {len(saved.cells)} timings, saved {saved.saved_at_utc}, run {saved.run_id or '-'}")
    if not known:
        say(f"no baseline in {results_dir / store.DIRECTORY}")


def _read(sources: list[Path]) -> tuple[Matrix | None, list[ScoreMatrix]]:
    """The run and the comparison's matrices that the words name. Raises UsageError, also for one that contradicts
    itself."""
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison.records import MATRIX_SCHEMA, ScoreMatrix
    from pytest_multiitem.results.records import SCHEMA_VERSION
    from pytest_multiitem.results.store import read_matrix, read_object
    from pytest_multiitem.validation.validate import refuse_contradictions

    runs: list[Matrix] = []
    matrices: list[ScoreMatrix] = []
    for source in sources:
        before = len(runs) + len(matrices)
        for path in sorted(source.glob("*.json")) if source.is_dir() else [source]:
            schema = read_object(path, f"a {SCHEMA_VERSION} or {MATRIX_SCHEMA} file").get("schema_version")
            if schema == SCHEMA_VERSION:
                runs.append(read_matrix(path))
            elif schema == MATRIX_SCHEMA:
                matrices.append(artefacts.read(path, ScoreMatrix).record)
            else:
                continue
            refuse_contradictions(path)
        if len(runs) + len(matrices) == before:
            raise UsageError(
                f"{source} holds no timings: expected {SCHEMA_VERSION} or {MATRIX_SCHEMA} files, or their directory"
            )
    if len(runs) > 1:
        raise UsageError(f"{len(runs)} runs are given; a baseline is of one run (comparison matrices may be several)")
    return (runs[0] if runs else None), matrices
