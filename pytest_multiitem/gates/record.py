"""From a measurement to the record of a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.judge import judge_difference, judge_ratio, judge_statement
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.results.verdict import worse
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.targets.target import Target


def record_of(gate: Gate, measurement: Measurement) -> GateRecord:
    """Judge a measurement. A mask that was requested but not executed is a FAIL, not a warning."""
    value, evidence = measurement.value, measurement.evidence
    if gate.relation == ">=":
        blocks, unreachable = measurement.samples.get("timed_runs", 0), measurement.unreachable
        verdict, reason = judge_ratio(gate, value, measurement.interval, blocks, unreachable=unreachable)
        if value is None and measurement.doubt is not None:
            reason = measurement.doubt
    elif gate.limit is None:
        verdict, reason = judge_statement(value, evidence, holds=measurement.holds, doubt=measurement.doubt)
    else:
        verdict, reason = judge_difference(gate, value, evidence)
    if verdict is Verdict.PASS and measurement.doubt is not None:
        verdict, reason = Verdict.INCONCLUSIVE, measurement.doubt
    attestation = measurement.attestation
    for problem in (measurement.problem, None if attestation is None else attestation.problem):
        if problem is not None:  # what was measured may say so as well
            verdict, reason = Verdict.FAIL, f"{problem}; {reason}" if verdict is Verdict.FAIL else problem
    target, profile = measurement.target, measurement.target.profile
    return GateRecord(
        gate=gate.name,
        verdict=verdict,
        reason=reason,
        relation=gate.relation,
        value=None if value is None else float(value),
        limit=gate.limit,
        interval=measurement.interval,
        **msgspec.structs.asdict(evidence),
        samples=measurement.samples,
        engine=target.engine,
        role=profile.role,
        backend=measurement.backend or profile.backend,
        model=target.model,
        dtype=target.dtype,
        semantics=None if profile.semantics is None else profile.semantics.value,
        mask_requested=profile.mask_impl,
        mask_attested=None if attestation is None else attestation.mask,
        server_chunk_size=profile.chunk_size,
        client_chunk_size=measurement.client_chunk_size,
        items_per_sequence=None if attestation is None else attestation.items_per_sequence,
        details=measurement.details,
    )


def blank_record(gate: Gate, verdict: Verdict, reason: str, nodeid: str = "") -> GateRecord:
    """A record of a gate that measured nothing."""
    return GateRecord(
        gate=gate.name, verdict=verdict, reason=reason, relation=gate.relation, limit=gate.limit, nodeid=nodeid
    )


def verdict_of(error: BaseException, gate: Gate) -> Verdict:
    """What an error in the way of a measurement is for a gate.

    FAIL: the server under test has died, or given what is no answer. ERROR: its baseline or its reference has, or the
    error says nothing of any score. NOT_RUN: the measurement is not possible here.
    """
    if isinstance(error, EngineUnavailable):
        return Verdict.NOT_RUN
    if not isinstance(error, MultiItemError) or is_nobodys(error):
        return Verdict.ERROR
    return Verdict.FAIL if error.origin is None or gate.is_about(error.origin) else Verdict.ERROR


def judged(gate: Gate, measure: Callable[[Gate], Measurement | GateRecord]) -> GateRecord:
    """Measure and judge, where the measurement does not; an error is judged by whose it is (`verdict_of`)."""
    start = time.perf_counter()
    try:
        measured = measure(gate)
        record = measured if isinstance(measured, GateRecord) else record_of(gate, measured)
    except (MultiItemError, OSError) as error:
        record = blank_record(gate, verdict_of(error, gate), str(error))
    record.seconds = round(time.perf_counter() - start, 3)
    return record


def answers_judged(gate: Gate, record: GateRecord, targets: Iterable[Target], *, seed: int) -> GateRecord:
    """The record of a gate once every answer that its servers gave meanwhile is judged too.

    A wrong answer of a server under test is a FAIL, whatever the gate itself measures, and whichever two backends it
    compares; one of its serial baseline keeps the gate from a PASS. What a gate that fails already has received is not
    looked into.
    """
    for target in targets:
        if record.verdict is Verdict.FAIL:
            target.answers.drop()
            continue
        is_baseline = target.profile.role == "serial" and record.role != "serial"
        try:
            judged = target.judge_answers(seed)
        except MultiItemError as error:
            if worse(verdict := verdict_of(error, gate), record.verdict):
                record.verdict, record.reason = verdict, str(error)
            continue
        record.samples = {**record.samples, "rows_judged": record.samples.get("rows_judged", 0) + judged.rows}
        if judged.problem is not None:
            record.verdict = Verdict.INCONCLUSIVE if is_baseline else Verdict.FAIL
            record.reason = f"{target.place}: {judged.problem}"
        elif judged.doubt is not None and record.verdict is Verdict.PASS:
            record.verdict, record.reason = Verdict.INCONCLUSIVE, f"{target.place}: {judged.doubt}"
    return record
