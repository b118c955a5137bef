"""``multiitem kernel-check``: is this attention kernel a correct item mask?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.kernels import answer


def kernel_check(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns attention(q, k, v, layout), or that and what it can do. MODULE is imported "
            "from the current directory or the environment.",
        ),
    ],
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Check to make: exact, large, nonfinite, equivalence, ladder, repeats; again for a further one "
            "(default: all).",
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory that the arrays of one shape may take (default: 2)."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--kernel-timeout", metavar="SECONDS", help="Time that one shape may take (default: 300)."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--output-json", metavar="FILE", help="Write all of it here, with every shape.")
    ] = None,
) -> None:
    """Check by what it computes that an attention kernel is a correct item mask.

    Exit status 0: every check passes. 1: one does not. 2: it could not begin. 3: it could not be told: NOT_RUN (a
    device or a package is missing, for example) or INCONCLUSIVE.
    """
    from pytest_multiitem.errors import UsageError
    from pytest_multiitem.kernels.gate import (
        CHECK_NAMES,
        DEFAULT_MEMORY,
        DEFAULT_TIMEOUT,
        Wanted,
        check_kernel,
        parse_check,
    )
    from pytest_multiitem.reports.kernels import report_lines

    for flag, number in (("--memory", memory), ("--kernel-timeout", timeout)):
        if number is not None and not 0 < number < float("inf"):
            raise UsageError(f"{flag} {number:g} is not valid: expected a number above 0")
    wanted = Wanted(
        kernel=kernel,
        checks=tuple(dict.fromkeys(map(parse_check, check))) if check else CHECK_NAMES,
        timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
        memory=DEFAULT_MEMORY if memory is None else memory,
        path=(str(Path.cwd()),),
    )
    answer(check_kernel, wanted, report_lines, json_file)
