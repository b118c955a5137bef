"""``multiitem scores …``: saved scores without pytest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_multiitem.commands.options import DEFAULTS, AllowInconclusive
from pytest_multiitem.commands.output import say

if TYPE_CHECKING:
    from pytest_multiitem.baselines.golden import GoldenScores

_Name = Annotated[str, typer.Argument(help="A name of saved scores.")]
_NameOrFile = Annotated[str, typer.Argument(metavar="NAME", help="A name of saved scores, or their file.")]
_Other = Annotated[
    str, typer.Argument(metavar="OTHER", help="What to compare with them: a run's directory, a name, or a file.")
]
_ResultsDir = Annotated[Path, typer.Option(metavar="DIR", help="Where scores are kept, in scores/.")]


def scores_list(results_dir: _ResultsDir = DEFAULTS.results_dir) -> None:
    """List the saved scores. Exit status 2 where some cannot be read."""
    from pytest_multiitem.baselines import golden

    known = golden.SHELF.names(results_dir)
    for name in known:
        saved = golden.read(golden.SHELF.find(name, results_dir, Path.cwd()))
        say(f"{name}: {golden.summary(saved)}, saved {saved.saved_at_utc}, run {saved.run_id or '-'}")
    if not known:
        say(f"no saved scores in {results_dir / golden.SHELF.directory}")


def scores_show(name: _NameOrFile, results_dir: _ResultsDir = DEFAULTS.results_dir) -> None:
    """Show what was scored, by which servers, and how far replays of it were apart."""
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.reports.scores import saved_requests, saved_servers

    saved = _read(name, results_dir)
    say(f"{saved.name}: saved {saved.saved_at_utc}, run {saved.run_id or '-'}, workload {saved.workload_sha256}")
    for line in (*terminal_table(*saved_servers(saved)), *terminal_table(*saved_requests(saved))):
        say(line)


def scores_delete(name: _Name, results_dir: _ResultsDir = DEFAULTS.results_dir) -> None:
    """Delete saved scores; a copy stays in scores/replaced."""
    from pytest_multiitem.baselines.golden import SHELF

    say(f"deleted {name}; a copy is kept: {SHELF.delete(name, results_dir)}")


def scores_compare(
    name: _NameOrFile,
    other: _Other,
    allow_inconclusive: AllowInconclusive = False,
    results_dir: _ResultsDir = DEFAULTS.results_dir,
) -> None:
    """Judge the scores of a finished run, or other saved ones, against saved ones.

    Exit status 0: none moved. 1: some moved, are missing or of something else, or INCONCLUSIVE. 2: a file cannot be
    used.
    """
    from pytest_multiitem.baselines.score_judging import evidence_lines, judge
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.reports.scores import scores as table
    from pytest_multiitem.results.records import Verdict

    record = judge(_read(name, results_dir), _read(other, results_dir))
    for line in (*terminal_table(*table([record])), *evidence_lines(record)):
        say(line)
    say(f"{record.verdict.value}: {record.reason}")
    passing = {Verdict.PASS, Verdict.INCONCLUSIVE} if allow_inconclusive else {Verdict.PASS}
    raise typer.Exit(0 if record.verdict in passing else 1)


def _read(name: str, results_dir: Path) -> GoldenScores:
    """Saved scores by name, file, or the directory of a run that has measured some. Raises UsageError."""
    from pytest_multiitem.baselines import golden

    if Path(name).expanduser().is_dir():
        return golden.read(Path(name).expanduser() / golden.SCORES_FILE)
    return golden.read(golden.SHELF.find(name, results_dir, Path.cwd()))
