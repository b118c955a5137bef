"""What a run has timed, in one form whatever it was measured by: benchmarks, or a comparison's matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pytest_multiitem.baselines.records import Cell
from pytest_multiitem.comparison.records import Row, ScoreMatrix
from pytest_multiitem.results.records import BenchmarkRecord, Matrix, TestRecord

#: Settings that times depend on.
SETTINGS = (
    "engine", "model", "models", "dtype", "device", "semantics", "server_chunk_size", "segment_threshold", "seed",
    "profiles", "multi_profile", "serial_profile", "extend_profile", "extend_batch_size",
    "extend_max_running_requests", "bench_warmup_runs", "bench_timed_runs", "confirm_runs",
)  # fmt: skip
#: What tells one machine from another. Kernel and Python change on the same one.
_MACHINE = ("architecture", "processor", "cpus_usable", "memory_gib", "device")


@dataclass(frozen=True)
class Timings:
    """A run's timings. ``untimed``: node id or key → why its timing, where one is missed, is not there.

    ``unconfirmed``: keys of confirmations that this run had no reason to make, because its sweep chose other chunk
    sizes → the key of that sweep's timing.
    """

    cells: tuple[Cell, ...]
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    untimed: Mapping[str, str] = field(default_factory=dict)
    unconfirmed: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None


def timings(
    benchmarks: Iterable[BenchmarkRecord] = (),
    tests: Iterable[TestRecord] = (),
    matrices: Sequence[ScoreMatrix] = (),
    *,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    settings: Mapping[str, str],
    run_id: str | None = None,
) -> Timings:
    """A run's timings: those of benchmarks whose test passed, and of a comparison's rows without a failed run."""
    known = {test.nodeid: test for test in tests}
    passed = {nodeid for nodeid, test in known.items() if test.outcome == "passed"}
    several = settings.get("models", "-") != "-"
    last = {record.nodeid: record for record in benchmarks if record.nodeid in passed}  # of a test that was repeated
    cells = [_benchmark_cell(record, machine, by_model=several) for record in last.values()]
    untimed = {nodeid: _why_untimed(test) for nodeid, test in known.items()}
    unconfirmed: dict[str, str] = {}
    for matrix in matrices:
        for stage, rows in (("sweep", matrix.results), ("confirm", matrix.confirm_results)):
            for row in rows:
                problem = row_problem(row)
                if problem is None:
                    cells.append(_row_cell(matrix, row, stage))
                else:
                    untimed[_row_key(matrix, row.client_chunk_size, stage)] = problem
        unconfirmed |= _unconfirmed(matrix)
    return Timings(
        tuple(cells),
        machine,
        {**versions, **{name: version for matrix in matrices for name, version in matrix.versions.items()}},
        {name: settings[name] for name in SETTINGS if name in settings},
        untimed,
        unconfirmed,
        run_id,
    )


def timings_of(run: Matrix | None, matrices: Sequence[ScoreMatrix]) -> Timings:
    """The timings of a run's ``matrix.json``, of a comparison's matrices, or of both."""
    if run is None:
        hardware = matrices[0].hardware if matrices else None
        machine = hardware if isinstance(hardware, dict) else {}
        return timings(matrices=matrices, machine=machine, versions={}, settings={})
    around = {name: version for server in run.servers for name, version in server.packages.items()}
    return timings(
        run.benchmarks,
        run.tests,
        matrices,
        machine=run.machine,
        versions={**run.versions, **around},
        settings={setting.name: setting.value for setting in run.settings},
        run_id=run.run_id,
    )


def row_problem(row: Row) -> str | None:
    """Why a row of a comparison is no timing: a run of it failed, or something else was executed."""
    if row.status != "ok":
        kinds = ", ".join(f"{count} {kind}" for kind, count in row.failure_reason_counts.items())
        return f"{'some runs' if row.status == 'partial_failure' else 'all runs'} failed ({kinds or 'no reason given'})"
    for problem in (row.attestation_problem, row.score_problem):
        if problem is not None:
            return problem
    return None if _seconds(row) else "its runs have no times"


def _benchmark_cell(record: BenchmarkRecord, machine: Mapping[str, Any], *, by_model: bool) -> Cell:
    chunk = record.server_chunk_size
    parts = [
        record.name,
        record.backend,
        record.mask_requested,
        f"server chunk {chunk}" if chunk else None,
        PurePath(record.model).name if by_model else None,
        f"{record.query_tokens}/{record.num_items}/{record.item_tokens}",
        f"chunk {record.client_chunk_size}",
    ]
    return Cell(
        key=_joined(parts),
        seconds=record.runs_sec,
        items=record.num_items,
        workload_sha256=record.workload_sha256,
        engine=record.engine,
        backend=record.backend,
        model=record.model,
        dtype=record.dtype,
        mask_attested=record.mask_attested,
        machine=_facts({**machine, **({"device": record.device} if record.device else {})}),
        nodeid=record.nodeid,
    )


def _row_cell(matrix: ScoreMatrix, row: Row, stage: str) -> Cell:
    head = matrix.workload if isinstance(matrix.workload, dict) else {}
    items = head.get("num_items")
    return Cell(
        key=_row_key(matrix, row.client_chunk_size, stage),
        seconds=_seconds(row),
        items=items if isinstance(items, int) else len(row.reference_scores or ()),
        workload_sha256=matrix.workload_ref.measured_sha256,
        engine=matrix.engine,
        backend=matrix.backend,
        model=matrix.model,
        dtype=matrix.dtype,
        mask_attested=row.mask_attested,
        machine=_facts(matrix.hardware),
    )


def _row_key(matrix: ScoreMatrix, chunk_size: int, stage: str) -> str:
    return _joined(["comparison", matrix.evaluation_view, matrix.backend, f"chunk {chunk_size}", stage])


def _joined(parts: Iterable[str | None]) -> str:
    return " · ".join(part for part in parts if part)


def _seconds(row: Row) -> list[float]:
    return [run.total_e2e_ms / 1000 for run in row.run_records if run.ok and run.total_e2e_ms is not None]


def _unconfirmed(matrix: ScoreMatrix) -> dict[str, str]:
    """Which chunk sizes are confirmed depends on the sweep's winner, and so on noise; the sweep times all of them."""
    confirmed = {row.client_chunk_size for row in matrix.confirm_results}
    if not confirmed or matrix.complete is False:
        return {}
    wanted = confirmed.union(matrix.summary.confirm_chunk_sizes)
    return {
        _row_key(matrix, row.client_chunk_size, "confirm"): _row_key(matrix, row.client_chunk_size, "sweep")
        for row in matrix.results
        if row.client_chunk_size not in wanted and row_problem(row) is None
    }


def _facts(machine: Any) -> dict[str, Any]:
    """What tells this machine from another, of whatever a tool says of it."""
    if not isinstance(machine, Mapping):
        return {"hardware": str(machine)} if machine else {}
    return {name: machine[name] for name in _MACHINE if name in machine} or dict(machine)


def _why_untimed(test: TestRecord) -> str:
    if test.outcome == "passed":
        return "its test passed and timed something else"
    outcome = "failed" if test.outcome == "failed" else f"was {test.outcome}"
    return f"its test {outcome}{f': {test.reason.partition(chr(10))[0]}' if test.reason else ''}"
