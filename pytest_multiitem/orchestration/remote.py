"""What is typed on a machine: where the run lives there, how it is set up, and the one command that measures."""

from __future__ import annotations

import shlex

from pytest_multiitem.comparison.records import VIEWS
from pytest_multiitem.orchestration.records import BACKEND_OF, Ledger, Plan, SidePlan

WORKLOAD = "canonical_workload.json"
#: Where the measuring command writes, in the run's directory there.
MEASURED = "measured"
MODEL = "model"
_PROGRAM = "from pytest_multiitem.cli import main; main()"


def directory_of(ledger: Ledger) -> str:
    """The run's directory on a machine, relative to the home directory there."""
    return f"multiitem-{ledger.mark}"


def in_directory(directory: str, command: str) -> str:
    """A shell command, in the run's directory."""
    return f"mkdir -p {directory} && cd {directory} && {command}"


def set_up_commands(side: SidePlan, wheel: str) -> list[str]:
    """The shell commands that set a machine up, then the one that says what is installed."""
    asks = shlex.join([side.python, "-c", "import pytest_multiitem as m; print('pytest-multiitem', m.__version__)"])
    return [*(command.replace("{wheel}", wheel) for command in side.commands), asks]


def measuring_command(plan: Plan, side: SidePlan, *, copied_model: bool) -> str:
    """The shell command that measures a side's matrices beside its server: portable and best native.

    It runs in the run's directory, goes on where it ended when it is run again, writes ``score_matrix_v1`` files into
    `MEASURED`, and ends with 0 or 1 once all is measured.
    """
    shape = plan.shape
    words: list[str] = [side.python, "-c", _PROGRAM, "compare", "run", "--backend", BACKEND_OF[side.side]]
    words += ["--engine", side.engine, "--multiitem-views", ",".join(VIEWS), "--workload", WORKLOAD]
    options = {
        "--model": None if copied_model else shape.model,
        "--mask-impl": shape.jax_mask_impl if side.side == "tpu" else None,
        "--multiitem-labels": shape.labels,
        "--multiitem-delimiter": shape.delimiter,
        "--multiitem-bench-query-tokens": shape.query_tokens,
        "--multiitem-bench-items": shape.num_items,
        "--multiitem-item-tokens": shape.item_tokens,
        "--multiitem-compare-chunk-sizes": shape.client_chunk_sizes,
        "--multiitem-bench-warmup-runs": shape.warmup_runs,
        "--multiitem-bench-timed-runs": shape.timed_runs,
        "--multiitem-confirm-runs": shape.timed_runs_confirm,
        "--multiitem-request-timeout": f"{shape.timeout_sec:g}",
        "--multiitem-cost-per-hour": None if side.usd_per_hour is None else f"{side.usd_per_hour:g}",
        "--compare-dir": MEASURED,
    }
    words += [word for name, value in options.items() if value is not None for word in (name, str(value))]
    here = {"--model": MODEL if copied_model else None, "--engine-python": side.engine_python}
    paths = [word for name, path in here.items() if path is not None for word in (name, _absolute(path))]
    return " ".join([shlex.join(words), *paths])


def copying_is_needed(side: SidePlan) -> bool:
    """Whether a directory of this machine has to be taken to that one."""
    return side.provider != "local"


def _absolute(path: str) -> str:
    """A path that the server's process understands as well, wherever it works."""
    return shlex.quote(path) if path.startswith("/") else f'"$PWD"/{shlex.quote(path)}'
