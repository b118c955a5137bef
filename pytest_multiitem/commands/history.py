"""``multiitem history`` and ``multiitem prune``: the runs that lie in a results directory, and which of them stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import DEFAULTS
from pytest_multiitem.commands.output import say

_ResultsDir = Annotated[Path, typer.Option(metavar="DIR", help="Where runs are written.")]


def history(
    gate: Annotated[
        str | None, typer.Option(metavar="NAME", help="One gate over time, instead of the runs themselves.")
    ] = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, help="The last N runs only.")] = None,
    output_json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows here as well.")] = None,
    results_dir: _ResultsDir = DEFAULTS.results_dir,
) -> None:
    """Show runs over time: verdicts, engines, speed-up and differences, and what failed.

    Exit status 2: there is no run, or no such gate in any.
    """
    from pytest_multiitem.errors import UsageError, did_you_mean
    from pytest_multiitem.reports import history as tables
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.history import history as runs_of
    from pytest_multiitem.results.store import write_record

    found = runs_of(results_dir.expanduser(), last)
    if not found.runs:
        raise UsageError(f"there is no run in {results_dir}; name the directory of your runs: --results-dir DIR")
    if gate is not None:
        known = dict.fromkeys(point.gate for row in found.runs for point in row.gates)
        if gate not in known:
            raise UsageError(
                f"--gate {gate!r}: no run has it{did_you_mean(gate, known)}; there are: {', '.join(known)}"
            )
    for line in terminal_table(*(tables.runs(found) if gate is None else tables.gate(found, gate))):
        say(line)
    if output_json is not None:
        write_record(output_json, found)
        say(f"written: {output_json}")


def prune(
    keep: Annotated[int, typer.Option(metavar="N", min=1, help="How many runs of each kind stay: the last ones.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    results_dir: _ResultsDir = DEFAULTS.results_dir,
) -> None:
    """Delete old runs, A/B pairs, comparisons, kill matrices and matrices of models; the last N of each kind stay.

    What is going on stays, and whatever is no run: baselines, saved scores, files of your own. Exit status 2: there is
    no such directory, or something cannot be deleted.
    """
    from pytest_multiitem.results import pruning

    place = results_dir.expanduser()
    found = pruning.plan(place, keep)
    if not dry_run:
        pruning.clear_leftovers(place)
    going = [old for old in found if old.kept is None]
    for old in going:
        if not dry_run:
            pruning.delete(old)
        say(f"{'would delete' if dry_run else 'deleted'} {old.path} ({old.bytes / 2**20:.1f} MiB)")
    for old in found:
        if old.kept is not None and not old.kept.startswith("one of"):
            say(f"kept {old.path}: {old.kept}")
    total = sum(old.bytes for old in going) / 2**20
    word = "would be deleted" if dry_run else "deleted"
    say(f"{len(going)} of {len(found)} {word}, {total:.1f} MiB; {len(found) - len(going)} stay")
