"""``multiitem gpu-check``: does a Triton kernel compile for GPUs, fit them, and compute the right numbers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.kernels import answer, cases_of
from pytest_multiitem.commands.options import parse_value


def gpu_check(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that returns a TritonCase. MODULE is imported from the current directory or the "
            "environment.",
        ),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,…", help="Arguments of FUNCTION for one case; again for a further case."),
    ] = None,
    chip: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu-chips",
            metavar="NAME",
            help="Architecture to check for; again for a further one (default: sm_80, sm_90, sm_100, sm_120).",
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--gpu-tier",
            metavar="compile|interpret|auto",
            help="compile: to cubins. interpret: numbers, on the CPU. auto: both.",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--gpu-timeout", metavar="SECONDS", help="Time that one kernel may take for one GPU (default: 180)."
        ),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(
            "--gpu-triton",
            metavar="DIR",
            help="Directory in which Triton is installed apart (pip install --target DIR).",
        ),
    ] = None,
    spills: Annotated[
        str | None,
        typer.Option(
            "--gpu-spills", metavar="BYTES", help="Bytes that a thread may spill and load back in all (default: 0)."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--output-json", metavar="FILE", help="Write all of it here, with full messages.")
    ] = None,
) -> None:
    """Compile a Triton kernel for GPUs and check its numbers, on a machine that has none.

    Exit status 0: every case compiles for every architecture, fits it, and its numbers hold. 1: one does not. 2: it
    could not begin. 3: it could not be told: NOT_RUN (Triton is missing, for example) or INCONCLUSIVE.
    """
    from pytest_multiitem.compile_gates.gpu.gate import Wanted, check_kernel
    from pytest_multiitem.reports.compile_gates import report_lines

    wanted = Wanted(
        kernel=kernel,
        cases=cases_of(shape),
        chips=parse_value("--gpu-chips", "gpu_chips", ",".join(chip) if chip else None, variable=True),
        tier=parse_value("--gpu-tier", "gpu_tier", tier, variable=True),
        timeout=parse_value("--gpu-timeout", "gpu_timeout", timeout, variable=True),
        triton=parse_value("--gpu-triton", "gpu_triton", triton, variable=True),
        spills=parse_value("--gpu-spills", "gpu_spills", spills, variable=True),
        path=(str(Path.cwd()),),
    )
    answer(check_kernel, wanted, report_lines, json_file)
