"""What the commands that check a kernel have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.compile_gates.records import Report as CompileReport
    from pytest_multiitem.compile_gates.shapes import Case
    from pytest_multiitem.kernels.records import Report as KernelReport

_Wanted = TypeVar("_Wanted")
_Report = TypeVar("_Report", bound="CompileReport | KernelReport")
#: Exit status of each verdict. A kernel that nobody could judge is not one that passed.
EXIT_STATUS = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "NOT_RUN": 3}


def cases_of(shapes: Sequence[str] | None) -> tuple[Case, ...]:
    """The cases that ``--shape`` names; without any one of the defaults. Raises UsageError."""
    from pytest_multiitem.compile_gates.shapes import parse_shape

    cases = []
    for text in shapes or []:
        try:
            cases.append(parse_shape(text))
        except ValueError as error:
            raise UsageError(f"--shape {text!r} is not valid: {error}") from None
    return tuple(cases) or ({},)


def answer(
    check: Callable[[_Wanted], _Report],
    wanted: _Wanted,
    lines_of: Callable[[_Report], Sequence[str]],
    json_file: Path | None,
) -> NoReturn:
    """Check a kernel, say what was found, and end with the verdict's exit status. ``lines_of``: a report in words."""
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.results.store import write_record

    if json_file is not None:
        check_writable(json_file)
    try:
        report = check(wanted)
    except KeyboardInterrupt as interrupt:
        for note in getattr(interrupt, "__notes__", ()):
            typer.echo(f"multiitem: {note}", err=True)
        raise
    for line in lines_of(report):
        say(line)
    if json_file is not None:
        write_record(json_file, report)
    raise typer.Exit(EXIT_STATUS[report.verdict.value])
