"""Joining a multi-item and a serial evaluation: the differences, the speed-ups, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import pytest_multiitem
from pytest_multiitem.evaluation import evidence
from pytest_multiitem.evaluation.measure import TIMING
from pytest_multiitem.evaluation.records import (
    COMBINED_SCHEMA,
    Combined,
    CombinedIsolation,
    Equivalence,
    Evaluation,
    Failure,
    GateEvidence,
)
from pytest_multiitem.evaluation.reference import TorchReference
from pytest_multiitem.evaluation.speedup import speed_point
from pytest_multiitem.evaluation.validity import Side
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.evidence import max_abs, score_spread
from pytest_multiitem.gates.gate import larger_floor
from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.parity import JAX_SERIAL_VS_TORCH_SERIAL
from pytest_multiitem.gates.speedup import GATED_ITEMS, SPEEDUP_N32
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.transport.client import Scores

_FIELDS = {SAME_LENGTH.name: "same_length_mutation", CHANGED_LENGTH.name: "changed_length_mutation"}


def combine(multi: Side, serial: Side, torch: TorchReference | None) -> Combined:
    """Join two evaluations of the same requests, and a torch reference of those.

    Every value is computed from the scores and the latencies; what the files say of them is not believed.
    What could not be measured is left out, with the reason in the gate's evidence.
    """
    ours, theirs = multi.evaluation, serial.evaluation
    performance = {
        count: speed_point(timing, theirs.performance[count])
        for count, timing in sorted(ours.performance.items(), key=lambda entry: int(entry[0]))
        if count in theirs.performance
    }
    combined = Combined(
        schema_version=COMBINED_SCHEMA,
        created_at_utc=utc_now(),
        package_version=pytest_multiitem.__version__,
        model=ours.model,
        labels=ours.labels,
        delimiter=ours.delimiter,
        semantics=ours.semantics,
        multi_url=ours.url,
        serial_url=theirs.url,
        isolation=CombinedIsolation(),
        equivalence=Equivalence(),
        performance=performance,
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
    changes = [evidence.untouched_changes(i, mutation) for i in requests for mutation in evidence.mutations(i, field)]
    if changes and isinstance(combined.isolation, CombinedIsolation):
        worst = max(changes, key=max_abs)
        setattr(combined.isolation, f"{field}_max_abs_diff", max_abs(worst))
        setattr(combined.isolation, f"{field}_unchanged_diffs", worst.tolist())
    bases = [np.array(isolation.base_scores) for isolation in requests]
    semantics = multi.evaluation.semantics or Semantics.PREFIX_FIRST_DELIM.value
    return GateEvidence(
        noise_floor=evidence.noise_floor((i.base_scores, i.replays) for i in requests) if requests else None,
        leak_visibility=evidence.leak_visibility(serial.evaluation, semantics),
        score_spread=score_spread(bases),
        problem=_early_end(multi, "scores")
        or _misexecuted(multi.evaluation, "scores")
        or _early_end(serial, "scores")
        or evidence.isolation_problem(multi, serial, field),
        doubt=evidence.isolation_doubt(multi, field) or _undeclared(multi.evaluation),
        not_run=None if requests else "no request has two items or more",
    )


def _equivalence(multi: Side, serial: Side, combined: Combined) -> GateEvidence:
    """Both references; the gate's evidence is that of the declared semantics' one."""
    ours, plain = _bases(multi), _bases(serial)
    aligned = _aligned(serial)
    if len(plain) == len(ours):
        combined.equivalence = _difference(ours, plain)
    if aligned is not None and len(aligned) == len(ours):
        combined.equivalence_query_plus_delimiter = _difference(ours, aligned)
    reference = plain
    answers = [(isolation.base_scores, isolation.replays) for isolation, _ in (*multi.cases, *serial.cases)]
    semantics = multi.evaluation.semantics or Semantics.PREFIX_FIRST_DELIM.value
    if Semantics(semantics).sees_first_delimiter:
        reference = aligned or []
        answers = [(isolation.base_scores, isolation.replays) for isolation, _ in multi.cases]
        answers += [(a.base_scores_query_plus_delimiter, a.replays) for _, a in serial.cases if a is not None]
    return GateEvidence(
        noise_floor=evidence.noise_floor(answers),
        leak_visibility=evidence.leak_visibility(serial.evaluation, semantics),
        score_spread=score_spread(reference),
        problem=_early_end(multi, "scores")
        or _early_end(serial, "scores")
        or _misexecuted(multi.evaluation, "scores")
        or _misexecuted(serial.evaluation, "scores"),
        doubt=_undeclared(multi.evaluation),
    )


def _speedup(multi: Evaluation, serial: Evaluation, *, timed: bool) -> GateEvidence:
    found = GateEvidence(doubt=evidence.timing_doubt(multi, serial))
    for side in (multi, serial):
        found.problem = found.problem or _ended(side.mode, side.failure) or _misexecuted(side, "timing")
    if not timed:
        found.not_run = f"N = {GATED_ITEMS} was not timed on both sides; evaluate both with it in --items"
    return found


def _parity(multi: Side, serial: Side, torch: TorchReference | None, combined: Combined) -> GateEvidence:
    if torch is None:
        return GateEvidence(not_run="there is no torch reference: combine with --reference or --torch-serial")
    combined.torch_reference = {
        **torch.about,
        "serial_scores": [scores.tolist() for scores in torch.serial],
        "query_plus_delimiter_scores": None if torch.aligned is None else [s.tolist() for s in torch.aligned],
    }
    packed, plain = _bases(multi), _bases(serial)
    if len(plain) == len(torch.serial):
        combined.max_abs_diff_jax_serial_vs_torch_serial = _difference(plain, torch.serial).max_abs_diff
    if len(packed) == len(torch.serial):
        combined.max_abs_diff_jax_multi_vs_torch_serial = _difference(packed, torch.serial).max_abs_diff
        semantics = Semantics(multi.evaluation.semantics or Semantics.PREFIX_FIRST_DELIM)
        reference = torch.aligned if semantics.sees_first_delimiter else torch.serial
        if reference is not None:
            difference = _difference(packed, reference).max_abs_diff
            combined.max_abs_diff_jax_multi_vs_torch_multi_semantic = difference
    floors = (evidence.noise_floor((i.base_scores, i.replays) for i, _ in serial.cases), torch.floor)
    backend = serial.evaluation.backend
    found = GateEvidence(
        noise_floor=None if None in floors else larger_floor(*floors),
        score_spread=score_spread(torch.serial),
        problem=_early_end(serial, "scores") or _misexecuted(serial.evaluation, "scores"),
        doubt=torch.doubt,
    )
    if backend is None:
        found.doubt = "which backend served the serial side is not recorded; evaluate it with --backend jax"
    elif backend != "jax":
        found.not_run = f"the serial side was served by {backend}, not by JAX"
        combined.notes.append(f"{found.not_run}: the parity fields compare {backend} with the torch reference")
    return found


def _bases(side: Side) -> list[Scores]:
    """Scores of every request; fewer where the evaluation ended early."""
    return [np.array(isolation.base_scores) for isolation, _ in side.cases if isolation.base_scores is not None]


def _aligned(side: Side) -> list[Scores] | None:
    found = [np.array(a.base_scores_query_plus_delimiter) for _, a in side.cases if a is not None]
    return found if len(found) == len(side.cases) else None


def _difference(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Equivalence:
    each = np.concatenate([np.abs(a - b).max(axis=1) for a, b in zip(ours, theirs, strict=True)])
    return Equivalence(max_abs_diff=max_abs(each), mean_abs_diff=float(each.mean()), abs_diffs=each.tolist())


def _early_end(side: Side, what: str) -> str | None:
    """The failure that ended a side before all its scores were there."""
    failure = side.evaluation.failure
    if failure is None or (failure.stage == TIMING and what == "scores"):
        return None
    return _ended(side.evaluation.mode, failure)


def _ended(mode: str, failure: Failure | None) -> str | None:
    if failure is None:
        return None
    return f"the {mode} evaluation ended at {failure.stage}: {failure.kind}: {failure.message}"


def _misexecuted(evaluation: Evaluation, what: str) -> str | None:
    attested = evaluation.attestation.get(what)
    return None if attested is None else attested.problem


def _undeclared(multi: Evaluation) -> str | None:
    return None if multi.semantics is not None else "the semantics of the multi-item side is not declared"
