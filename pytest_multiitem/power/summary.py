"""What a kill matrix comes to: which faults are killed, what only one gate sees, how sensitive each gate is."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_multiitem.faults.base import Fault, WireFault
from pytest_multiitem.faults.catalogue import catalogue
from pytest_multiitem.power.columns import columns, not_measured
from pytest_multiitem.power.records import FaultRecord, KillMatrix
from pytest_multiitem.results.details import BuildRecord, Power
from pytest_multiitem.results.records import GateRecord, Verdict


def summarise(matrix: KillMatrix) -> None:
    """Fill in what follows from the builds."""
    numbers = {fault.name: fault.number for fault in matrix.faults}
    judged = [build for build in matrix.builds if build.fault is not None and build.as_expected is not None]
    backends = dict.fromkeys(build.backend for build in matrix.builds)
    matrix.expected = sorted({number for number in numbers.values() if number})
    matrix.killed = {
        backend: [number for number in matrix.expected if _is_killed(number, backend, numbers, judged)]
        for backend in backends
    }
    matrix.unique = _unique(matrix)
    matrix.sensitivity = _sensitivity(matrix)


def _is_killed(number: int, backend: str, numbers: dict[str, int], judged: Iterable[BuildRecord]) -> bool:
    """Every fault with this number was measured on a backend and is killed there."""
    names = {name for name, its in numbers.items() if its == number}
    killed = {build.fault for build in judged if build.backend == backend and build.as_expected}
    return names <= killed


def _unique(matrix: KillMatrix) -> dict[str, list[str]]:
    """By gate, the builds that no other gate failed; with the backend where it is so on one only."""
    backends = dict.fromkeys(build.backend for build in matrix.builds)
    only: dict[str, dict[str, list[str]]] = {}
    for build in matrix.builds:
        if build.fault is not None and len(build.killed_by) == 1:
            only.setdefault(build.killed_by[0], {}).setdefault(build.label, []).append(build.backend)
    return {
        gate: [
            label if len(where) == len(backends) else f"{label} ({', '.join(where)})" for label, where in labels.items()
        ]
        for gate, labels in only.items()
    }


def _sensitivity(matrix: KillMatrix) -> dict[str, dict[str, float]]:
    """By gate and fault, the smallest strength at which the gate fails on every backend that was measured."""
    found: dict[str, dict[str, float]] = {}
    graded = {fault.name for fault in matrix.faults if len(fault.strengths) > 1}
    strengths: dict[tuple[str, float], list[BuildRecord]] = {}
    for build in matrix.builds:
        if build.fault in graded and build.strength is not None:
            strengths.setdefault((build.fault, build.strength), []).append(build)
    for (name, strength), builds in strengths.items():
        failing = [{cell.gate for cell in build.cells if cell.verdict is Verdict.FAIL} for build in builds]
        for gate in set.intersection(*failing):
            known = found.setdefault(gate, {})
            known[name] = min(strength, known.get(name, strength))
    return {
        gate: found[gate] for gate in dict.fromkeys(name.partition("[")[0] for name in matrix.gates) if gate in found
    }


def verdict(matrix: KillMatrix) -> tuple[int, list[str]]:
    """The exit status that a kill matrix asks for, and what is not as it should be."""
    problems = []
    for build in matrix.builds:
        if build.as_expected is False and build.fault is None:
            wrong = [f"{cell.gate} {cell.verdict.value}" for cell in build.cells if cell.verdict is not Verdict.PASS]
            problems.append(f"{build.label} ({build.backend}) does not pass: {', '.join(wrong) or 'nothing measured'}")
        elif build.as_expected is False:
            problems.append(f"{build.label} ({build.backend}) survives: no gate fails on it")
    problems += [f"{backend} was not measured: {reason}" for backend, reason in matrix.missing.items()]
    if not matrix.complete:
        problems.append("the kill matrix is not complete")
    if not any(build.fault for build in matrix.builds):
        problems.append("no fault was measured")
    return (1 if problems else 0), problems


def _described(kind: type[Fault]) -> FaultRecord:
    return FaultRecord(
        name=kind.name,
        number=kind.number,
        about=kind.about(),
        seen=kind.seen,
        layer="wire" if issubclass(kind, WireFault) else "engine",
        scope=sorted(kind.scope),
        strengths=list(kind.strengths),
        unit=kind.unit,
        circumstances=dict(kind.circumstances),
    )


def matrix_of(records: Iterable[GateRecord]) -> KillMatrix:
    """The kill matrix that a run's verdicts of `power` carry."""
    builds = [build for record in records if isinstance(record.details, Power) for build in record.details.builds]
    known = catalogue()
    names = dict.fromkeys(build.fault for build in builds if build.fault in known)
    matrix = KillMatrix(
        run_id="",
        started_at_utc="",
        gates=[column.name for column in columns()],
        not_measured=not_measured(),
        faults=[_described(known[str(name)]) for name in names],
        builds=builds,
    )
    summarise(matrix)
    return matrix
