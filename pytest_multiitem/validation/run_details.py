"""Whether a run's verdicts follow from the further measurements that stand in their details."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pytest_multiitem.baselines.judging import compared
from pytest_multiitem.bench.figures import is_usable
from pytest_multiitem.compile_gates.records import GpuReport, Report, TpuReport
from pytest_multiitem.faults.catalogue import catalogue
from pytest_multiitem.gates.golden import SCORES_AS_SAVED
from pytest_multiitem.gates.power import FAULT_IS_KILLED, HEALTHY_PASSES
from pytest_multiitem.gates.regression import NO_REGRESSION
from pytest_multiitem.gates.segment import SEGMENT_LOWERS
from pytest_multiitem.power.records import FaultRecord
from pytest_multiitem.power.summary import fault_record
from pytest_multiitem.results import details
from pytest_multiitem.results.details import BuildRecord, TimingVerdict
from pytest_multiitem.results.figures import contradictions, differs
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.results.verdict import Verdict, worst
from pytest_multiitem.settings import conditions
from pytest_multiitem.settings.conditions import Condition
from pytest_multiitem.validation import compile_gates, kill_matrix, saved_scores

#: What the verdict of a gate rests on, where it rests on its details alone.
_NEEDED = {
    NO_REGRESSION.name: details.AgainstBaseline,
    SCORES_AS_SAVED.name: details.AgainstScores,
    HEALTHY_PASSES.name: details.Power,
    FAULT_IS_KILLED.name: details.Power,
    SEGMENT_LOWERS.name: details.SegmentPath,
}


def problems(record: GateRecord) -> Iterator[str]:
    """What of a gate's details contradicts itself, or its verdict."""
    needed = _NEEDED.get(record.gate)
    if needed is not None and record.verdict is Verdict.PASS and not isinstance(record.details, needed):
        yield f"its verdict is PASS, but its details do not hold what was measured ({needed.__struct_config__.tag})"
    elif isinstance(record.details, details.AgainstBaseline):
        yield from _against_baseline(record, record.details)
    elif isinstance(record.details, details.AgainstScores):
        yield from saved_scores.problems(record, record.details)
    elif isinstance(record.details, details.Power):
        yield from _power(record, record.details)
    elif isinstance(record.details, details.SegmentPath):
        yield from _segment_path(record, record.details)
    elif isinstance(record.details, details.Equivalence):
        yield from _scored(record, record.details)
    elif isinstance(record.details, details.ContentIsolation) and record.details.pairs is not None:
        yield from _pairs(record, record.details.pairs)


def _scored(record: GateRecord, found: details.Equivalence) -> Iterator[str]:
    """The scores themselves give the value: the item that differs most is always among them."""
    for each in found.scored:
        if not len(each.items) == len(each.packed) == len(each.serial):
            yield f"{each.case}: of {len(each.items)} items there are {len(each.packed)} and {len(each.serial)} scores"
            return
    pairs = [pair for each in found.scored for pair in zip(each.packed, each.serial, strict=True)]
    if any(score is None for pair in pairs for score in pair):
        if record.verdict is Verdict.PASS:
            yield "its verdict is PASS, but a score is no number"
        return
    if pairs and record.value is not None:
        largest = max(abs((packed or 0.0) - (serial or 0.0)) for packed, serial in pairs)
        yield from differs("its value", record.value, largest, "its items are apart by")


def _pairs(record: GateRecord, found: details.SeenPairs) -> Iterator[str]:
    """No change of another item that is larger than the value."""
    count = len(found.lengths)
    if len(found.moved) != count or any(len(row) != count for row in found.moved):
        yield f"{found.case}: {count} items, but the table of who sees whom has another shape"
        return
    others = [moved for at, row in enumerate(found.moved) for to, moved in enumerate(row) if at != to]
    if record.verdict is Verdict.PASS and None in others:
        yield "its verdict is PASS, but a change of a score is no number"
    largest = max((abs(moved) for moved in others if moved is not None), default=0.0)
    if record.value is not None and largest > record.value:
        yield f"its value is {record.value:.9g}, but an item moved by {largest:.9g} ({found.case})"


def _against_baseline(record: GateRecord, found: details.AgainstBaseline) -> Iterator[str]:
    try:
        wanted = [conditions.parse(text) for text in found.conditions]
    except ValueError as error:
        yield f"its conditions are {found.conditions!r:.80}: {error}"
        return
    for cell in found.cells:
        yield from (f"{cell.key}: {text}" for text in _timing(cell, wanted))
    due = worst((cell.verdict for cell in found.cells), of_none=Verdict.FAIL)
    if record.verdict is Verdict.PASS and due is not Verdict.PASS:
        yield f"its verdict is PASS; its timings give {due}"


def _timing(cell: TimingVerdict, wanted: list[Condition]) -> Iterator[str]:
    if not cell.ratios:
        if cell.verdict is not Verdict.FAIL:
            yield f"it is {cell.verdict}, but there is no ratio"
        return
    if [ratio.condition for ratio in cell.ratios] != [condition.text for condition in wanted]:
        yield f"its ratios are of {[ratio.condition for ratio in cell.ratios]!r:.80}"
    elif cell.seconds is not None and not all(map(is_usable, cell.seconds)):
        yield "its seconds are no times"
    elif cell.seconds is not None:
        again = compared(cell.key, cell.seconds, wanted, cell.doubt)
        for _, text in contradictions(_figures(cell), _figures(again), "its runs give"):
            yield text
    elif (due := worst((ratio.verdict for ratio in cell.ratios), of_none=Verdict.PASS)) is not cell.verdict:
        yield f"it is {cell.verdict}; its ratios give {due}"


def _figures(cell: TimingVerdict) -> object:
    """Without what is said in words."""
    ratios = [msgspec.structs.replace(ratio, note=None) for ratio in cell.ratios]
    return msgspec.to_builtins(msgspec.structs.replace(cell, reason="", ratios=ratios))


def _power(record: GateRecord, found: details.Power) -> Iterator[str]:
    for build in found.builds:
        fault = None if build.fault is None else _fault(build.fault, build)
        yield from (f"{build.label}: {text}" for text in kill_matrix.build_problems(build, fault, None))
    if record.verdict is Verdict.PASS and not (found.builds and found.builds[0].as_expected):
        yield "its verdict is PASS, but its build is not as expected"


def _fault(name: str, build: BuildRecord) -> FaultRecord:
    """What is known of a fault; of a project's own one that is not loaded, what its build says."""
    known = catalogue().get(name)
    if known is not None:
        return fault_record(known)
    strengths = [] if build.strength is None else [build.strength]
    undecided, failed = (
        {cell.gate for cell in build.cells if cell.verdict is verdict}
        for verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)
    )
    counts = bool(undecided & set(build.killed_by) - failed)
    return FaultRecord(
        name=name,
        number=0,
        about="",
        seen="",
        layer="engine",
        scope=[],
        strengths=strengths,
        inconclusive_counts=counts,
    )


def _segment_path(record: GateRecord, found: details.SegmentPath) -> Iterator[str]:
    kinds: tuple[type[Report], ...] = (TpuReport, GpuReport)
    there = [pair for pair in zip((found.tpu, found.gpu), kinds, strict=True) if pair[0] is not None]
    if not there:
        if record.verdict is Verdict.PASS and "real run" not in found.evidence:
            yield "its verdict is PASS, but there is neither a real run nor the compile gate's report"
        return
    for document, kind in there:
        try:
            report = msgspec.convert(document, kind)
        except msgspec.ValidationError as error:
            yield f"its compile gate's report is none: {error}"
            continue
        yield from (f"compile gate: {text}" for text in compile_gates.problems(report))
        alone = "real run" not in found.evidence
        failed = report.verdict is Verdict.FAIL or (alone and report.verdict is not Verdict.PASS)
        if record.verdict is Verdict.PASS and failed:
            yield f"its verdict is PASS, that of the compile gate {report.verdict}"
