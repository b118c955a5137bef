"""Whether a run's verdicts follow from its figures, and its summary from its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from pytest_multiitem.bench.figures import is_usable, of_ratio, of_times
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.judge import judge_difference, judge_ratio
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.speedup import GATED_ITEMS
from pytest_multiitem.results import details
from pytest_multiitem.results.figures import differs
from pytest_multiitem.results.records import Evidence, GateRecord, Matrix
from pytest_multiitem.results.verdict import Verdict, failing
from pytest_multiitem.validation import run_details

#: Outcomes of a test whose gate passed, and of one that did not.
_GOOD, _BAD = ("passed",), ("failed", "not reached")
_FAILING = failing(allow_inconclusive=True)


def summary(matrix: Matrix) -> str:
    """What it holds, in a few words."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in matrix.summary.items() if count)
    return f"{counts or 'no gates'}{'' if matrix.complete else ', not complete'}"


def problems(artefact: Artefact[Matrix]) -> list[str]:
    """What is wrong with a run whose schema holds."""
    matrix = artefact.record
    found = [f"{_where(gate)}: {text}" for gate in matrix.gates for text in _gate(gate)]
    return [*found, *_variants(matrix), *_benchmarks(matrix), *_tests(matrix), *_summary(matrix)]


def _variants(matrix: Matrix) -> Iterator[str]:
    """Whether the verdicts on variants are on those of the profile matrix, and whether one that was not measured has
    none."""
    reasons = {variant.name: variant.reason for variant in matrix.variants}
    for record in matrix.gates:
        name = record.place.variant
        if name is not None and name not in reasons:
            yield f"{_where(record)}: it is on the variant {name!r}, which the run does not have"
        elif name is not None and reasons[name] is not None and record.verdict is not Verdict.NOT_RUN:
            yield f"{_where(record)}: it is {record.verdict}, but its variant was not measured: {reasons[name]}"


def _where(gate: GateRecord) -> str:
    return f"{gate.gate}[{gate.place.label}]" if gate.place.label else gate.gate


def _gate(record: GateRecord) -> Iterator[str]:
    """Whether a verdict follows from the value, the interval and the evidence beside it.

    What else can make a gate FAIL or leave it undecided stands in its reason alone; so only a PASS is judged again,
    and a FAIL or INCONCLUSIVE whose reason is that of the figures.
    """
    known = gates().get(record.gate)
    if known is not None and (known.relation, known.limit) != (record.relation, record.limit):
        stated = record.relation if record.limit is None else f"{record.relation} {record.limit:g}"
        yield f"its limit is stated as {stated}; this gate's is {known.bound}"
        return
    if isinstance(record.details, details.Speedup):
        yield from _speedup(record, record.details)
    yield from run_details.problems(record)
    if record.verdict is not Verdict.PASS:
        return
    if record.relation == "holds":
        return
    gate = known or Gate(record.gate, "", record.relation, record.limit)
    if record.relation == ">=":
        blocks = _blocks(record)
        verdict, reason = judge_ratio(gate, record.value, record.interval, blocks)
    else:
        evidence = msgspec.convert(record, Evidence, from_attributes=True)
        verdict, reason = judge_difference(gate, record.value, evidence)
    if verdict is not Verdict.PASS:
        yield f"its verdict is PASS; its figures give {verdict}: {reason}"


def _blocks(record: GateRecord) -> int:
    point = _gated(record)
    if point is None:
        return record.samples.get("timed_runs", 0)
    return min(len(point.serial.latencies_sec), len(point.multi.latencies_sec))


def _gated(record: GateRecord) -> details.SpeedPoint | None:
    known = record.details
    return known.performance.get(str(GATED_ITEMS)) if isinstance(known, details.Speedup) else None


def _speedup(record: GateRecord, curves: details.Speedup) -> Iterator[str]:
    for name in ("performance", "performance_vs_tuned_serial"):
        for count, point in (getattr(curves, name) or {}).items():
            where = f"{name} at N = {count}"
            if not count.isdecimal() or int(count) < 1:
                yield f"{where}: expected a number of items"
                continue
            for side, times in (("serial", point.serial), ("multi", point.multi)):
                yield from of_times(f"{where}, {side}: ", int(count), times.latencies_sec, times)
            serial, multi = point.serial.latencies_sec, point.multi.latencies_sec
            if len(serial) != len(multi):
                yield f"{where}: {len(serial)} serial runs and {len(multi)} packed ones; expected pairs"
            elif is_usable(serial) and is_usable(multi):
                yield from of_ratio(f"{where}: ", serial, multi, point, paired=True)
    gated = _gated(record)
    if gated is not None and record.value is not None:
        yield from differs("its value", record.value, gated.speedup_vs_serial_p50, f"its point at N = {GATED_ITEMS} is")
        pairs = zip(record.interval or (), gated.speedup_interval_95 or (), strict=False)
        for stated, wanted in pairs:
            yield from differs("its interval", stated, wanted, f"that of its point at N = {GATED_ITEMS} is")


def _benchmarks(matrix: Matrix) -> Iterator[str]:
    for bench in matrix.benchmarks:
        yield from of_times(f"{bench.name}: ", bench.num_items, bench.runs_sec, bench)


def _tests(matrix: Matrix) -> Iterator[str]:
    """Whether tests and gates tell the same."""
    recorded: dict[str, list[GateRecord]] = {}
    for gate in matrix.gates:
        recorded.setdefault(gate.nodeid, []).append(gate)
    for test in matrix.tests:
        if test.verdict is None:
            continue
        of_test = [gate.verdict for gate in recorded.get(test.nodeid, ()) if gate.gate == test.gate]
        if not of_test and test.verdict is not Verdict.NOT_RUN:
            yield f"{test.nodeid} gave {test.gate} the verdict {test.verdict}, of which there is no record"
        elif of_test and test.verdict not in of_test:
            yield f"{test.nodeid} gave {test.gate} the verdict {test.verdict}, but its record says {of_test[0]}"
        if test.verdict is Verdict.PASS and test.outcome in _BAD:
            yield f"{test.nodeid} {test.outcome}, but its verdict is PASS"
        if test.verdict in _FAILING and test.outcome in _GOOD:
            yield f"{test.nodeid} passed, but its verdict is {test.verdict}"
    tested = {test.nodeid for test in matrix.tests}
    for nodeid in recorded.keys() - tested - {""} if matrix.tests else ():
        yield f"{recorded[nodeid][0].gate} was measured by {nodeid}, of which there is no record"


def _summary(matrix: Matrix) -> Iterator[str]:
    counted = Counter(gate.verdict.value for gate in matrix.gates)
    stated = {verdict: count for verdict, count in matrix.summary.items() if count}
    if stated != counted:
        yield f"summary is {stated}; the gates' verdicts are {dict(counted)}"
    bad = sum(counted[verdict.value] for verdict in _FAILING) + sum(test.outcome == "failed" for test in matrix.tests)
    if bad and matrix.exit_status == 0:
        yield f"exit_status is 0, but {bad} gates and tests failed"
    if matrix.exit_status == 0 and matrix.interrupted_by is not None:
        yield f"exit_status is 0, but the run was interrupted by {matrix.interrupted_by}"
