"""Outcome → GateRecord: a verdict for each gate and view, for pytest; all together give the command its exit status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pytest_multiitem.comparison.decision.correctness import CROSS_BACKEND, OWN_REFERENCE, wrong_under_load
from pytest_multiitem.comparison.records import Agreement, Check, ComparedView, Outcome, Row, ScoreMatrix
from pytest_multiitem.gates.comparison import COMPARISON_MEASURED
from pytest_multiitem.gates.gate import Gate, larger_floor, magnitude
from pytest_multiitem.gates.parity import SEGMENT_VS_DENSE
from pytest_multiitem.gates.registry import required
from pytest_multiitem.gates.segment import SEGMENT_LOWERS
from pytest_multiitem.results.details import ComparedSides, Judged
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.results.verdict import failing, rank
from pytest_multiitem.settings.settings import Settings

_SEGMENT = (SEGMENT_LOWERS.name, SEGMENT_VS_DENSE.name)

#: What a verdict is for: a view, or a backend and a view.
Place = str


def planned(settings: Settings) -> list[tuple[Gate, Place]]:
    """Every verdict that a comparison of these settings gives, before anything is measured."""
    sides = [f"{backend}-{view}" for view in settings.views for backend in settings.backend]
    return [
        *((COMPARISON_MEASURED, view) for view in settings.views),
        *((gate, view) for gate in CROSS_BACKEND for view in settings.views),
        *((gate, side) for gate in OWN_REFERENCE for side in sides),
    ]


def verdict(outcome: Outcome, settings: Settings, gate: Gate, place: Place) -> GateRecord:
    """The verdict of one of :func:`planned`."""
    if gate is COMPARISON_MEASURED:
        return _measured(outcome, settings, place)
    if gate in CROSS_BACKEND:
        return _across(outcome, gate, place)
    backend, _, view = place.partition("-")
    return _own(outcome, gate, backend, view)


def exit_status(outcome: Outcome, settings: Settings) -> tuple[int, list[str]]:
    """0 where all was measured that was asked for, and every verdict on it is PASS; else 1, with the reasons.

    A comparison of one side alone is not wrong for that: what it lacks is NOT_RUN, unless it was asked for.
    """
    needed = required(replace(settings, compare=True))
    bad = failing(allow_inconclusive=settings.allow_inconclusive)
    reasons = [
        f"{record.verdict.value} {gate.name} [{place}]: {record.reason}"
        for gate, place in planned(settings)
        if (record := verdict(outcome, settings, gate, place)).verdict in bad
        or (record.verdict is Verdict.NOT_RUN and gate.name in needed)
    ]
    reasons += [f"not measured: {side}: {reason.splitlines()[0]}" for side, reason in outcome.not_run.items()]
    return int(bool(reasons)), reasons


def limitations(records: Iterable[GateRecord]) -> list[Check]:
    """What a run's gates on the segment mask have not shown, or shown not to hold."""
    said = {
        (record.gate, record.verdict, record.reason): None
        for record in records
        if record.gate in _SEGMENT and record.verdict in (Verdict.NOT_RUN, Verdict.FAIL)
    }
    return [Check(gate=gate, verdict=verdict.value, reason=reason) for gate, verdict, reason in said]


def _measured(outcome: Outcome, settings: Settings, view: str) -> GateRecord:
    matrices = {m.backend: m for _, m in outcome.matrices if m.evaluation_view == view}
    wrong = [f"{side}: {reason}" for side, reason in outcome.failures.items()]
    broken = [f"{side}: {reason}" for side, reason in outcome.errors.items()]
    absent = [f"{side}: {reason}" for side, reason in outcome.not_run.items()]
    rows = 0
    for backend, matrix in matrices.items():
        for phase, in_phase in (("", matrix.results), ("confirming ", matrix.confirm_results)):
            rows += len(in_phase)
            wrong += [f"{backend}, {phase}chunk size {r.client_chunk_size}: {p}" for r in in_phase for p in _wrong(r)]
        if (problem := wrong_under_load(matrix)) is not None:
            wrong.append(f"{backend}: {problem}")
        if matrix.complete is not True and not (wrong or broken):
            wrong.append(f"{backend}: rows are missing")
    lacking = [b for b in settings.backend if b not in matrices]
    if wrong:
        verdict, reason = Verdict.FAIL, "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if wrong[3:] else "")
    elif broken:
        verdict, reason = Verdict.ERROR, "; ".join(broken)
    elif absent or lacking or not matrices:
        verdict = Verdict.NOT_RUN
        reason = "; ".join(absent) or f"no server of {' and '.join(lacking)}"
    else:
        verdict, reason = Verdict.PASS, f"{rows} rows of {' and '.join(matrices)}, every run successful"
    return _record(COMPARISON_MEASURED, verdict, reason, matrices.values(), samples={"rows": rows})


def _wrong(row: Row) -> list[str]:
    """What went wrong in a row."""
    failures = ", ".join(f"{count} {kind}" for kind, count in row.failure_reason_counts.items())
    problems = [f"{row.status} ({failures})"] if row.status != "ok" else []
    return problems + [problem for problem in (row.attestation_problem, row.score_problem) if problem]


def _across(outcome: Outcome, gate: Gate, view: str) -> GateRecord:
    matrices = [m for _, m in outcome.matrices if m.evaluation_view == view]
    compared = next((v for v in outcome.comparison.views if v.view == view), None)
    rows = [] if compared is None else compared.rows
    checks = [(row.client_chunk_size, check) for row in rows for check in row.checks if check.gate == gate.name]
    if not checks:
        return _record(gate, Verdict.NOT_RUN, _why_not_across(outcome, compared, matrices), matrices)
    checked = [(f"client chunk size {size}", check) for size, check in checks]
    return _judged(gate, checked, matrices, [row.agreement for row in rows])


def _why_not_across(outcome: Outcome, view: ComparedView | None, matrices: Sequence[ScoreMatrix]) -> str:
    declared = {m.semantics for m in matrices}
    if len(matrices) > 1 and len(declared) > 1:
        return "the sides declare different semantics; each is gated against its own serial reference"
    if view is not None and view.deferred:
        return view.deferred
    return outcome.comparison.blocker or "no client chunk size was measured on both sides"


def _own(outcome: Outcome, gate: Gate, backend: str, view: str) -> GateRecord:
    matrix = next((m for _, m in outcome.matrices if (m.backend, m.evaluation_view) == (backend, view)), None)
    side = next((s for s in outcome.comparison.sides if (s.backend, s.view) == (backend, view)), None)
    checks = [] if side is None else [c for c in side.own_reference_checks if c.gate == gate.name]
    if matrix is None or side is None or not checks:
        reason = "the side was not measured"
        if matrix is not None:
            known = matrix.own_reference
            reason = (known.reason if known is not None else None) or "its own serial reference was not measured"
        return _record(gate, Verdict.NOT_RUN, reason, [matrix] if matrix is not None else [])
    checked = [(f"{backend} {view}", check) for check in checks]
    return _judged(gate, checked, [matrix], [side.own_reference_agreement])


def _judged(
    gate: Gate,
    checks: Sequence[tuple[str, Check]],
    matrices: Sequence[ScoreMatrix],
    agreements: Iterable[Agreement | None],
) -> GateRecord:
    """The worst of several checks of one gate, with the largest value."""
    worst = min(checks, key=lambda entry: rank(entry[1].verdict))
    values = [check.value for _, check in checks if check.value is not None]
    record = _record(
        gate,
        Verdict(worst[1].verdict),
        worst[1].reason if worst[1].verdict == Verdict.PASS else f"{worst[0]}: {worst[1].reason}",
        matrices,
        samples={"chunk_sizes": len(checks)},
        details=ComparedSides(checks={at: Judged(verdict=check.verdict, value=check.value) for at, check in checks}),
    )
    record.value = max(values, key=magnitude, default=None)
    known = [agreement for agreement in agreements if agreement is not None]
    record.noise_floor = larger_floor(*(agreement.noise_floor for agreement in known))
    record.score_spread = min((a.score_spread for a in known if a.score_spread is not None), default=None)
    if record.verdict is Verdict.PASS and record.value is not None:
        record.reason = f"{record.value:.6g} is within the limit {gate.limit:g}"
    return record


def _record(gate: Gate, verdict: Verdict, reason: str, matrices: Iterable[ScoreMatrix], **fields: Any) -> GateRecord:
    matrices = list(matrices)
    served: dict[str, Any] = {
        name: " vs ".join(dict.fromkeys(str(v) for m in matrices if (v := getattr(m, name)) is not None)) or None
        for name in ("engine", "backend", "model", "dtype", "semantics", "mask_requested")
    }
    rows = [row for m in matrices for row in (*m.results, *m.confirm_results)]
    return GateRecord(
        gate=gate.name,
        verdict=verdict,
        reason=reason,
        relation=gate.relation,
        limit=gate.limit,
        mask_attested=" vs ".join(dict.fromkeys(row.mask_attested for row in rows if row.mask_attested)) or None,
        **served,
        **fields,
    )
