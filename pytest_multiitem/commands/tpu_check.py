"""``multiitem tpu-check``: does a Pallas kernel compile for TPUs?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.kernels import answer, cases_of
from pytest_multiitem.commands.options import parse_value


def tpu_check(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns (callable, abstract arguments). MODULE is imported from the current "
            "directory or the environment.",
        ),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,…", help="Arguments of FUNCTION for one case; again for a further case."),
    ] = None,
    chip: Annotated[
        list[str] | None,
        typer.Option(
            "--tpu-chips", metavar="NAME", help="Chip to check for; again for a further one (default: v6e, v5e, v5p)."
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tpu-tier", metavar="lower|compile|auto", help="lower: JAX alone. compile: needs libtpu. auto: both."
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--tpu-timeout", metavar="SECONDS", help="Time that one kernel may take for one chip (default: 180)."
        ),
    ] = None,
    libtpu: Annotated[
        str | None,
        typer.Option(
            "--tpu-libtpu",
            metavar="DIR",
            help="Directory in which libtpu is installed apart (pip install --target DIR).",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--output-json", metavar="FILE", help="Write all of it here, with full messages.")
    ] = None,
) -> None:
    """Lower and compile a Pallas kernel for TPUs, on a machine that has none.

    Exit status 0: every case lowers and compiles for every chip. 1: one does not. 2: it could not begin. 3: it could
    not be told: NOT_RUN (libtpu is missing, for example) or INCONCLUSIVE.
    """
    from pytest_multiitem.compile_gates.tpu.gate import Wanted, check_kernel
    from pytest_multiitem.reports.compile_gates import report_lines

    wanted = Wanted(
        kernel=kernel,
        cases=cases_of(shape),
        chips=parse_value("--tpu-chips", "tpu_chips", ",".join(chip) if chip else None, variable=True),
        tier=parse_value("--tpu-tier", "tpu_tier", tier, variable=True),
        timeout=parse_value("--tpu-timeout", "tpu_timeout", timeout, variable=True),
        libtpu=parse_value("--tpu-libtpu", "tpu_libtpu", libtpu, variable=True),
        path=(str(Path.cwd()),),
    )
    answer(check_kernel, wanted, report_lines, json_file)
