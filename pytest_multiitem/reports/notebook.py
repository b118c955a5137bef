"""A run for notebooks and spreadsheets: flat rows of plain values, ready for a data frame, without one being installed.

>>> from pytest_multiitem.reports.notebook import load_run
>>> run = load_run("multiitem-results/latest")
>>> pandas.DataFrame(run.speedups)  # or any other library
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_multiitem.results.details import ContentIsolation, Equivalence, Speedup
from pytest_multiitem.results.records import EVIDENCE, GateRecord, Matrix
from pytest_multiitem.results.store import read_matrix

Row = dict[str, Any]
#: The fields of a gate's row that stand in its record as they are.
_PLAIN = ("gate", "verdict", "relation", "limit", "value")
_FURTHER = ("engine", "role", "model", "dtype", "semantics", "mask_requested", "mask_attested", "server_chunk_size",
            "client_chunk_size", "items_per_sequence", "seconds", "nodeid", "reason")  # fmt: skip


@dataclass(frozen=True)
class LoadedRun:
    """One run as lists of rows. Times in seconds, scores are probabilities.

    ``gates``: a verdict a row, with its evidence. ``speedups``: a server and a number of items a row. ``runs``: every
    timed run of these. ``items``: packed and serial score of an item a row. ``pairs``: how far one item's content moves
    another one's score. ``benchmarks``: a benchmark a row. ``matrix``: the whole record.
    """

    matrix: Matrix
    gates: list[Row]
    speedups: list[Row]
    runs: list[Row]
    items: list[Row]
    pairs: list[Row]
    benchmarks: list[Row]


def load_run(path: str | Path = "multiitem-results/latest") -> LoadedRun:
    """Read a run's directory, or its ``matrix.json``. Raises UsageError for a file that is none."""
    matrix = read_matrix(Path(path))
    gates = matrix.gates
    return LoadedRun(
        matrix=matrix,
        gates=[gate_row(record) for record in gates],
        speedups=[row for record in gates for row in _speedups(record)],
        runs=[row for record in gates for row in _runs(record)],
        items=[row for record in gates for row in _items(record)],
        pairs=[row for record in gates for row in _pairs(record)],
        benchmarks=[
            {name: getattr(bench, name) for name in bench.__struct_fields__ if name != "runs_sec"}
            for bench in matrix.benchmarks
        ],
    )


def gate_row(record: GateRecord) -> Row:
    """A verdict with its evidence, flat."""
    low, high = record.interval or (None, None)
    return {
        **{name: getattr(record, name) for name in _PLAIN}, "verdict": record.verdict.value,
        "interval_low": low, "interval_high": high,
        "place": record.place.label, "backend": record.place.backend or record.backend, "mask": record.place.mask,
        **{name: getattr(record, name) for name in (*EVIDENCE, *_FURTHER)},
    }  # fmt: skip


def _speedups(record: GateRecord) -> Iterator[Row]:
    if not isinstance(record.details, Speedup):
        return
    for baseline, points in (
        ("serial", record.details.performance),
        ("tuned serial", record.details.performance_vs_tuned_serial),
    ):
        for n, point in (points or {}).items():
            low, high = point.speedup_interval_95 or (None, None)
            yield {
                "place": record.place.label, "baseline": baseline, "items": int(n),
                "speedup": point.speedup_vs_serial_p50, "interval_low": low, "interval_high": high,
                "ceiling": point.ceiling, "share_of_ceiling": point.share_of_ceiling,
                "packed_p50_sec": point.multi.p50_sec, "packed_p95_sec": point.multi.p95_sec,
                "serial_p50_sec": point.serial.p50_sec, "serial_p95_sec": point.serial.p95_sec,
            }  # fmt: skip


def _runs(record: GateRecord) -> Iterator[Row]:
    if not isinstance(record.details, Speedup):
        return
    for n, point in record.details.performance.items():
        for side, times in (("packed", point.multi), ("serial", point.serial)):
            for at, seconds in enumerate(times.latencies_sec):
                yield {"place": record.place.label, "items": int(n), "side": side, "run": at, "seconds": seconds}


def _items(record: GateRecord) -> Iterator[Row]:
    if not isinstance(record.details, Equivalence):
        return
    for each in record.details.scored:
        for item, packed, serial in zip(each.items, each.packed, each.serial, strict=True):
            yield {
                "place": record.place.label, "request": each.case, "item": item, "packed": packed, "serial": serial,
                "text": each.texts.get(str(item)),
            }  # fmt: skip


def _pairs(record: GateRecord) -> Iterator[Row]:
    if not isinstance(record.details, ContentIsolation) or record.details.pairs is None:
        return
    pairs = record.details.pairs
    for changed, row in enumerate(pairs.moved):
        for item, moved in enumerate(row):
            yield {"place": record.place.label, "request": pairs.case, "changed": changed, "item": item, "moved": moved}
