"""Joining a multi-item and a serial evaluation: the differences, the speed-ups, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET

import pytest_multiitem
from pytest_multiitem.bench.statistics import p50, ratio_interval
from pytest_multiitem.errors import Origin
from pytest_multiitem.evaluation import evidence, records
from pytest_multiitem.evaluation.measure import TIMING
from pytest_multiitem.evaluation.records import (
    Combined,
    Equivalence,
    Evaluation,
    GateEvidence,
    Sources,
    SpeedPoint,
    Timing,
)
from pytest_multiitem.evaluation.reference import TorchReference
from pytest_multiitem.evaluation.validity import Side
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.evidence import max_abs, score_spread
from pytest_multiitem.gates.gate import larger_floor
from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.parity import JAX_SERIAL_VS_TORCH_SERIAL
from pytest_multiitem.gates.speedup import GATED_ITEMS, SPEEDUP_N32
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, Scores

_FIELDS = {SAME_LENGTH.name: "same_length_mutation", CHANGED_LENGTH.name: "changed_length_mutation"}


def combine(multi: Side, serial: Side, torch: TorchReference | None) -> Combined:
    """Join two evaluations of the same requests, and a torch reference of those.

    Every value is computed from the scores and the latencies; what the files say of them is not believed.
    What could not be measured is left out, with the reason in the gate's evidence.
    """
    ours, theirs = multi.evaluation, serial.evaluation
    performance = {
        count: _speed_point(timing, theirs.performance[count])
        for count, timing in sorted(ours.performance.items(), key=lambda entry: int(entry[0]))
        if count in theirs.performance
    }
    combined = Combined(
        schema_version=records.COMBINED_SCHEMA,
        created_at_utc=utc_now(),
        package_version=pytest_multiitem.__version__,
        model=ours.model,
        labels=ours.labels,
        delimiter=ours.delimiter,
        semantics=ours.semantics,
        multi_url=ours.url,
        serial_url=theirs.url,
        isolation=records.CombinedIsolation(),
        equivalence=Equivalence(),
        performance=performance,
        sources=Sources(multi=ours, serial=theirs, torch=None if torch is None else torch.evaluation),
    )
    for gate, field in _FIELDS.items():
        combined.evidence[gate] = _isolation(multi, serial, field, combined)
    combined.evidence[EQUIVALENCE.name] = _equivalence(multi, serial, combined)
    combined.evidence[SPEEDUP_N32.name] = _speedup(ours, theirs, timed=str(GATED_ITEMS) in performance)
    combined.evidence[JAX_SERIAL_VS_TORCH_SERIAL.name] = _parity(multi, serial, torch, combined)
    if (note := evidence.packing_note(ours)) is not None:
        combined.notes.append(note)
    return combined


def _isolation(multi: Side, serial: Side, field: str, combined: Combined) -> GateEvidence:
    requests = evidence.several(multi)
    mutated = [(i, mutation) for i in requests for mutation in evidence.mutations(i, field)]
    untouched = [np.delete(evidence.changes(i, mutation), mutation.mutated_index) for i, mutation in mutated]
    if untouched and isinstance(combined.isolation, records.CombinedIsolation):
        worst = max(untouched, key=max_abs)
        setattr(combined.isolation, f"{field}_max_abs_diff", max_abs(worst))
        setattr(combined.isolation, f"{field}_unchanged_diffs", worst.tolist())
    ours, theirs = multi.evaluation, serial.evaluation
    return GateEvidence(
        noise_floor=evidence.noise_floor((i.base_scores, i.replays) for i in requests) if requests else None,
        leak_visibility=evidence.leak_visibility(theirs, _semantics(ours).value),
        score_spread=score_spread([np.array(isolation.base_scores) for isolation in requests]),
        problem=_own_end(ours, "scores")
        or _misexecuted(ours, "scores")
        or evidence.isolation_problem(multi, serial, field),
        error=_others_end("scores", ours, baseline=theirs),
        doubt=evidence.isolation_doubt(multi, field) or _undeclared(ours),
        not_run=None if requests else "no request has two items or more",
    )


def _equivalence(multi: Side, serial: Side, combined: Combined) -> GateEvidence:
    """Both references; the gate's evidence is that of the declared semantics' one."""
    ours, plain, aligned = multi.bases, serial.bases, serial.aligned
    if len(plain) == len(ours):
        combined.equivalence = _difference(ours, plain)
    if aligned is not None and len(aligned) == len(ours):
        combined.equivalence_query_plus_delimiter = _difference(ours, aligned)
    reference = plain
    answers = [(isolation.base_scores, isolation.replays) for isolation, _ in (*multi.cases, *serial.cases)]
    semantics = _semantics(multi.evaluation)
    if semantics.sees_first_delimiter:
        reference = aligned or []
        answers = [(isolation.base_scores, isolation.replays) for isolation, _ in multi.cases]
        answers += [(a.base_scores_query_plus_delimiter, a.replays) for _, a in serial.cases if a is not None]
    return GateEvidence(
        noise_floor=evidence.noise_floor(answers),
        leak_visibility=evidence.leak_visibility(serial.evaluation, semantics.value),
        score_spread=score_spread(reference),
        problem=_own_end(multi.evaluation, "scores")
        or _misexecuted(multi.evaluation, "scores")
        or _misexecuted(serial.evaluation, "scores")
        or _wrong_scores(multi.evaluation),
        error=_others_end("scores", multi.evaluation, baseline=serial.evaluation) or _wrong_scores(serial.evaluation),
        doubt=_undeclared(multi.evaluation),
    )


def _speedup(multi: Evaluation, serial: Evaluation, *, timed: bool) -> GateEvidence:
    missing = f"N = {GATED_ITEMS} was not timed on both sides; evaluate both with it in --items"
    return GateEvidence(
        problem=_own_end(multi, "timing")
        or _wrong_times(multi)
        or _misexecuted(multi, "timing")
        or _misexecuted(serial, "timing"),
        error=_others_end("timing", multi, baseline=serial) or _wrong_times(serial),
        doubt=evidence.timing_doubt(multi, serial),
        not_run=None if timed else missing,
    )


def _parity(multi: Side, serial: Side, torch: TorchReference | None, combined: Combined) -> GateEvidence:
    if torch is None:
        return GateEvidence(not_run="there is no torch reference: combine with --torch-model or --torch-serial")
    combined.torch_reference = {
        **torch.about,
        "floor": torch.floor,
        "serial_scores": [scores.tolist() for scores in torch.serial],
        "query_plus_delimiter_scores": None if torch.aligned is None else [s.tolist() for s in torch.aligned],
    }
    packed, plain = multi.bases, serial.bases
    if len(plain) == len(torch.serial):
        combined.max_abs_diff_jax_serial_vs_torch_serial = _difference(plain, torch.serial).max_abs_diff
    if len(packed) == len(torch.serial):
        combined.max_abs_diff_jax_multi_vs_torch_serial = _difference(packed, torch.serial).max_abs_diff
        reference = torch.aligned if _semantics(multi.evaluation).sees_first_delimiter else torch.serial
        if reference is not None:
            combined.max_abs_diff_jax_multi_vs_torch_multi_semantic = _difference(packed, reference).max_abs_diff
    floors = (evidence.noise_floor((i.base_scores, i.replays) for i, _ in serial.cases), torch.floor)
    backend = serial.evaluation.backend
    measured = GateEvidence(
        noise_floor=None if None in floors else larger_floor(*floors),
        score_spread=score_spread(torch.serial),
        problem=_own_end(serial.evaluation, "scores")
        or _misexecuted(serial.evaluation, "scores")
        or _wrong_scores(serial.evaluation),
        error=_others_end("scores", serial.evaluation),
        doubt=torch.doubt,
    )
    if backend is None:
        measured.doubt = "which backend served the serial side is not recorded; evaluate it with --backend jax"
    elif backend != "jax":
        measured.not_run = f"the serial side was served by {backend}, not by JAX"
        combined.notes.append(f"{measured.not_run}: the parity fields compare {backend} with the torch reference")
    return measured


def _speed_point(multi: Timing, serial: Timing) -> SpeedPoint:
    """One N on both sides; the speed-up comes from the latencies."""
    sides = {"multi": multi, "serial": serial}
    names = ("p50_sec", "p95_sec", "items_per_sec_p50", "latencies_sec")
    return SpeedPoint(
        multi_wrong_scores=multi.wrong_scores or UNSET,
        serial_wrong_scores=serial.wrong_scores or UNSET,
        **{f"{side}_{name}": getattr(timing, name) for side, timing in sides.items() for name in names},
        speedup_vs_serial_p50=p50(serial.latencies_sec) / p50(multi.latencies_sec),
        speedup_interval_95=ratio_interval(serial.latencies_sec, multi.latencies_sec, paired=False),
    )


def _difference(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Equivalence:
    each = np.concatenate([np.abs(a - b).max(axis=1) for a, b in zip(ours, theirs, strict=True)])
    return Equivalence(max_abs_diff=max_abs(each), mean_abs_diff=float(each.mean()), abs_diffs=each.tolist())


def _semantics(multi: Evaluation) -> Semantics:
    return Semantics(multi.semantics or Semantics.PREFIX_FIRST_DELIM)


def _own_end(evaluation: Evaluation, what: str) -> str | None:
    """The failure that ended a side early, where it is one of its server's answers."""
    return None if _is_nobodys(evaluation) else _early_end(evaluation, what)


def _others_end(what: str, tested: Evaluation, *, baseline: Evaluation | None = None) -> str | None:
    """The failure that ended a side early, where it says nothing of the scores of the server under test."""
    ended = _early_end(tested, what) if _is_nobodys(tested) else None
    return ended or (None if baseline is None else _early_end(baseline, what))


def _is_nobodys(evaluation: Evaluation) -> bool:
    """Whether an evaluation was ended by what says nothing of its server's scores."""
    failure = evaluation.failure
    if failure is None:
        return False
    if failure.kind not in set(FailureKind):  # the user has stopped it
        return True
    error = ScoreFailure(FailureKind(failure.kind), failure.message, failure.status)
    has_scored = evaluation.isolation.base_scores is not None
    error.origin = Origin(evaluation.mode, evaluation.backend or "", has_scored)
    return is_nobodys(error)


def _early_end(evaluation: Evaluation, what: str) -> str | None:
    """The failure that ended a side before all its scores, or all its timing, were there."""
    failure = evaluation.failure
    if failure is None or (failure.stage == TIMING and what == "scores"):
        return None
    if failure.kind == FailureKind.WRONG_SCORES:
        return f"the {evaluation.mode} evaluation: {failure.kind}: {failure.message}"
    return f"the {evaluation.mode} evaluation ended at {failure.stage}: {failure.kind}: {failure.message}"


def _wrong_scores(evaluation: Evaluation) -> str | None:
    return None if evaluation.score_problem is None else f"the {evaluation.mode} side: {evaluation.score_problem}"


def _wrong_times(evaluation: Evaluation) -> str | None:
    """Whether any run that was timed has wrong scores."""
    wrong = {count: timing.wrong_scores for count, timing in evaluation.performance.items() if timing.wrong_scores}
    runs = ", ".join(f"{runs} at N = {count}" for count, runs in wrong.items())
    return f"the {evaluation.mode} evaluation: wrong_scores in timed runs: {runs}" if wrong else None


def _misexecuted(evaluation: Evaluation, what: str) -> str | None:
    attested = evaluation.attestation.get(what)
    return None if attested is None else attested.problem


def _undeclared(multi: Evaluation) -> str | None:
    return None if multi.semantics is not None else "the semantics of the multi-item side is not declared"
