"""Runs over time, from their ``matrix.json`` alone: rows that a table, a page or a plot is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from pytest_multiitem.errors import UsageError
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.results.answer import ANSWER, ANSWER_SCHEMA, Answer, Word
from pytest_multiitem.results.records import GateRecord, Matrix
from pytest_multiitem.results.store import MATRIX, read_matrix, read_record
from pytest_multiitem.results.verdict import Verdict, failing

HISTORY_SCHEMA: Final = "multiitem_history_v1"
#: The name of a run's directory (`results.store.new_run_id`).
RUN_ID: Final = re.compile(r"\d{8}-\d{6}-\d{3}-\d+")
#: Packages whose versions change scores and times.
_VERSIONS = ("pytest-multiitem", "torch", "transformers", "jax", "jaxlib", "sglang", "sglang-jax")


class GatePoint(msgspec.Struct, kw_only=True):
    """One verdict of a run. ``place``: which of the gate's tests, in words; "" where it has one only."""

    gate: str
    place: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    noise_floor: float | None = None


class BenchmarkPoint(msgspec.Struct, kw_only=True):
    """One benchmark of a run. ``place``: what was timed, in words. Times in seconds."""

    place: str
    p50_sec: float
    p95_sec: float
    items_per_sec_p50: float


class HistoryRow(msgspec.Struct, kw_only=True):
    """One run. ``answer``: of an acceptance; the exit status is then that of `multiitem accept`. ``engines``: by name,
    the version that its servers said or that was installed; null where nobody knows. ``failed``: gates that fail the
    run. ``problem``: why the run's file cannot be read; then nothing else is known."""

    run_id: str
    started_at_utc: str | None = None
    finished_at_utc: str | None = None
    complete: bool = False
    exit_status: int | None = None
    answer: Word | None = None
    summary: dict[str, int] = {}
    failed: list[str] = []
    engines: dict[str, str | None] = {}
    versions: dict[str, str] = {}
    workload: str | None = None
    gates: list[GatePoint] = []
    benchmarks: list[BenchmarkPoint] = []
    problem: str | None = None


class History(msgspec.Struct, kw_only=True):
    """All runs of a directory, the oldest first."""

    schema_version: Literal["multiitem_history_v1"] = HISTORY_SCHEMA
    runs: list[HistoryRow]


def run_directories(results_dir: Path) -> list[Path]:
    """The directories of the runs, the oldest first; no link is one."""
    return sorted(
        path
        for path in (results_dir.iterdir() if results_dir.is_dir() else ())
        if RUN_ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def history(results_dir: Path, last: int | None = None) -> History:
    """The runs of a directory that have written their results, or their ``last`` ones. One whose file cannot be read
    is a row with its problem, not left out."""
    found = [path for path in run_directories(results_dir) if (path / MATRIX).exists()]
    return History(runs=[_row(path) for path in (found if last is None else found[-last:])])


def series(runs: History, gate: str) -> dict[str, list[tuple[HistoryRow, GatePoint]]]:
    """One gate over time, by place: the runs that measured it, the oldest first."""
    found: dict[str, list[tuple[HistoryRow, GatePoint]]] = {}
    for row in runs.runs:
        for point in row.gates:
            if point.gate == gate and point.verdict is not Verdict.NOT_RUN:
                found.setdefault(point.place, []).append((row, point))
    return found


def problems(found: History) -> Iterator[str]:
    """What in a history contradicts itself."""
    names = [row.run_id for row in found.runs]
    if names != sorted(set(names)):
        yield "runs: expected each once, the oldest first"
    for row in found.runs:
        counts = {verdict.value: sum(point.verdict is verdict for point in row.gates) for verdict in Verdict}
        stated = {verdict.value: row.summary.get(verdict.value, 0) for verdict in Verdict}
        if row.problem is None and counts != stated:
            yield f"run {row.run_id}: its summary is {stated}; its gates give {counts}"
        bad = {point.gate for point in row.gates if point.verdict in failing(allow_inconclusive=False)}
        if bad != {*row.failed}:
            yield f"run {row.run_id}: failed is {sorted(row.failed)}; its gates give {sorted(bad)}"


def _row(directory: Path) -> HistoryRow:
    try:
        matrix = read_matrix(directory)
        answer = _answer(directory)
    except UsageError as error:
        return HistoryRow(run_id=directory.name, problem=str(error))
    gates = [_point(record) for record in matrix.gates]
    bad = failing(allow_inconclusive=False)
    settings = {setting.name: setting.value for setting in matrix.settings}
    return HistoryRow(
        run_id=directory.name,
        started_at_utc=matrix.started_at_utc,
        finished_at_utc=matrix.finished_at_utc,
        complete=matrix.complete,
        exit_status=matrix.exit_status if answer is None else answer.exit_status,
        answer=None if answer is None else answer.answer,
        summary={verdict.value: sum(point.verdict is verdict for point in gates) for verdict in Verdict},
        failed=[*dict.fromkeys(point.gate for point in gates if point.verdict in bad)],
        engines=_engines(matrix),
        versions={name: matrix.versions[name] for name in _VERSIONS if name in matrix.versions},
        workload=settings.get("workload") if settings.get("workload") != "-" else None,
        gates=gates,
        benchmarks=[
            BenchmarkPoint(
                place=" · ".join(
                    word
                    for word in (
                        each.name, each.backend, each.mask_requested,
                        f"{each.query_tokens}/{each.num_items}/{each.item_tokens}", f"chunk {each.client_chunk_size}",
                    )
                    if word
                ),
                p50_sec=each.p50_sec,
                p95_sec=each.p95_sec,
                items_per_sec_p50=each.items_per_sec_p50,
            )
            for each in matrix.benchmarks
        ],
    )  # fmt: skip


def _answer(directory: Path) -> Answer | None:
    """The answer that was made of a run, where there is one. Raises UsageError where it cannot be read."""
    path = directory / ANSWER
    if not path.is_file():
        return None
    answer, _ = read_record(path, Answer, ANSWER_SCHEMA, "name the answer of an acceptance")
    is_of_it = hashlib.sha256(read_bytes(directory / MATRIX)).hexdigest() == answer.given.matrix_sha256
    return answer if is_of_it else None


def _point(record: GateRecord) -> GatePoint:
    place = record.place.label or "-".join(word for word in (record.backend, record.mask_requested) if word is not None)
    return GatePoint(
        gate=record.gate,
        place=place,
        verdict=record.verdict,
        value=record.value,
        limit=record.limit,
        noise_floor=record.noise_floor,
    )


def _engines(matrix: Matrix) -> dict[str, str | None]:
    """By engine: the version that a server of it told; the embedded one is this package's."""
    found: dict[str, str | None] = {}
    told = next(
        (word for server in matrix.servers if isinstance(word := (server.info or {}).get("version"), str)), None
    )
    for record in matrix.gates:
        if record.engine is not None:
            own = matrix.versions.get("pytest-multiitem") if record.engine == "embedded" else None
            around = {name: version for server in matrix.servers for name, version in server.packages.items()}
            distribution = "sglang-jax" if record.engine == "sgl-jax" else record.engine
            found.setdefault(record.engine, told or around.get(distribution) or own)
    return found
