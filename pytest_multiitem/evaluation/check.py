"""Judging the five release gates from combined results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET

from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation import consistency
from pytest_multiitem.evaluation.records import Combined, GateEvidence
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.judge import MIN_PAIRED_BLOCKS, judge_difference, judge_ratio
from pytest_multiitem.gates.parity import JAX_SERIAL_VS_TORCH_SERIAL
from pytest_multiitem.gates.speedup import GATED_ITEMS, SPEEDUP_N32
from pytest_multiitem.results.records import Evidence, GateRecord, Verdict
from pytest_multiitem.results.verdict import failing

RELEASE_GATES = (SAME_LENGTH, CHANGED_LENGTH, EQUIVALENCE, SPEEDUP_N32, JAX_SERIAL_VS_TORCH_SERIAL)

_PARITY = "max_abs_diff_jax_serial_vs_torch_serial"
#: Sections that one gate rests on, or none; what is wrong elsewhere is wrong for all.
_OF_ONE = (
    "isolation", "equivalence", "equivalence_query_plus_delimiter", "performance", "evidence", "torch_reference",
    "max_abs_diff_jax_multi_vs_torch_multi_semantic", "max_abs_diff_jax_multi_vs_torch_serial",
)  # fmt: skip
#: A file without it may be another tool's.
_NO_EVIDENCE = GateEvidence(doubt="the file holds no evidence for this; combine the evaluations with this tool")
_NO_SOURCES = "the file does not hold the evaluations that it was joined from; combine them with this tool"


def judge(combined: Combined, found: Sequence[tuple[consistency.Path_, str]] | None = None) -> list[GateRecord]:
    """The verdict on every release gate; one whose figures contradict the samples in the file is FAIL.

    ``found``: the contradictions of the file, where they are known (`consistency.of_combined`).

    Raises UsageError where the content holds none of the fields of combined results.
    """
    sections = ("isolation", "equivalence", "equivalence_query_plus_delimiter", "performance", _PARITY)
    if all(getattr(combined, name) is UNSET for name in sections):
        raise UsageError(f"these are no combined results: there is none of {', '.join(sections)}")
    found = [*consistency.of_combined(combined)] if found is None else found
    return [_record(gate, combined, _contradiction(gate, combined, found)) for gate in RELEASE_GATES]


def exit_status(records: Sequence[GateRecord], *, allow_inconclusive: bool, required: Sequence[str]) -> int:
    """0 where every measured gate passes (INCONCLUSIVE may be allowed), no required one is NOT_RUN, and at least one
    was measured; else 1."""
    bad = failing(allow_inconclusive=allow_inconclusive)
    if any(r.verdict in bad or (r.verdict is Verdict.NOT_RUN and r.gate in required) for r in records):
        return 1
    return int(all(r.verdict is Verdict.NOT_RUN for r in records))


def _contradiction(gate: Gate, combined: Combined, found: Sequence[tuple[consistency.Path_, str]]) -> str | None:
    """What of a gate's figures, or of what all of them rest on, does not follow from the samples."""
    own = [_figure(each, combined) for each in RELEASE_GATES]
    mine = _figure(gate, combined)
    figure, _ = _value_of(gate, combined)
    texts = [
        text
        for path, text in sorted(found, key=lambda each: each[0] != figure)
        if mine(path) or ("evidence", gate.name) == path[:2] or not (path[0] in _OF_ONE or any(f(path) for f in own))
    ]
    more = f" (and {len(texts) - 1} further contradictions)" if texts[1:] else ""
    return f"the file contradicts itself: {texts[0]}{more}" if texts else None


def _figure(gate: Gate, combined: Combined) -> Callable[[consistency.Path_], bool]:
    """Whether a place in the file is one of a gate's figures."""
    parts, _ = _value_of(gate, combined)
    if gate in (SAME_LENGTH, CHANGED_LENGTH):
        kind = parts[1].partition("_")[0]
        return lambda path: path[0] == parts[0] and path[1:] != () and path[1].startswith(kind)
    if gate is JAX_SERIAL_VS_TORCH_SERIAL:
        return lambda path: path[0] in (_PARITY, "torch_reference")
    return lambda path: path[: len(parts) - 1] == parts[:-1]


def _record(gate: Gate, combined: Combined, contradiction: str | None) -> GateRecord:
    path, value = _value_of(gate, combined)
    stated = combined.evidence.get(gate.name, _NO_EVIDENCE)
    evidence = msgspec.convert(stated, Evidence, from_attributes=True)
    verdict, reason = _verdict(gate, _shown(path), value, stated, evidence, combined)
    if contradiction is not None:
        verdict, reason = Verdict.FAIL, contradiction
    return GateRecord(
        gate=gate.name,
        verdict=verdict,
        reason=" ".join(reason.split()),  # a server's own words may span lines
        relation=gate.relation,
        value=float(value) if isinstance(value, int | float) else None,
        limit=gate.limit,
        **msgspec.structs.asdict(evidence),
    )


def _verdict(
    gate: Gate, path: str, value: object, stated: GateEvidence, evidence: Evidence, combined: Combined
) -> tuple[Verdict, str]:
    if stated.problem is not None:
        return Verdict.FAIL, stated.problem
    if stated.error is not None:
        return Verdict.ERROR, stated.error
    if stated.not_run is not None:
        return Verdict.NOT_RUN, stated.not_run
    if value is UNSET and gate is JAX_SERIAL_VS_TORCH_SERIAL:
        return Verdict.NOT_RUN, f"{path} is missing: no torch reference was combined"
    if value is UNSET and gate is SPEEDUP_N32 and combined.performance is not UNSET:
        return Verdict.NOT_RUN, f"{path} is missing: N = {GATED_ITEMS} was not timed on both sides"
    if not isinstance(value, int | float):
        return Verdict.FAIL, f"{path} is {'missing' if value is UNSET else 'null'}; expected a number"
    if gate.relation == ">=":
        verdict, reason = _judge_speedup(gate, float(value), combined)
    else:
        verdict, reason = judge_difference(gate, float(value), evidence)
    doubt = stated.doubt or (_NO_SOURCES if combined.sources is UNSET else None)
    if verdict is Verdict.PASS and doubt is not None:
        return Verdict.INCONCLUSIVE, doubt
    return verdict, reason


def _judge_speedup(gate: Gate, value: float, combined: Combined) -> tuple[Verdict, str]:
    assert combined.performance is not UNSET  # the value came from there
    point = combined.performance[str(GATED_ITEMS)]
    for side, runs in (("multi", point.multi_wrong_scores), ("serial", point.serial_wrong_scores)):
        if runs is not UNSET and runs:
            return Verdict.FAIL, f"wrong_scores: {runs} timed runs of the {side} side have wrong scores"
    if not math.isfinite(value):
        return judge_ratio(gate, value, None, blocks=1)
    if point.multi_latencies_sec is UNSET or point.serial_latencies_sec is UNSET:
        return Verdict.INCONCLUSIVE, "the latencies of both sides are not recorded"
    blocks = min(len(point.multi_latencies_sec), len(point.serial_latencies_sec))
    if point.speedup_interval_95 is None and blocks >= MIN_PAIRED_BLOCKS:
        return Verdict.INCONCLUSIVE, "speedup_interval_95 is missing; combine the evaluations with this tool"
    return judge_ratio(gate, value, point.speedup_interval_95, blocks)


def _value_of(gate: Gate, combined: Combined) -> tuple[consistency.Path_, object]:
    """Where a gate's value stands, and what stands there: a number, None for ``null``, UNSET where it is missing."""
    if gate is JAX_SERIAL_VS_TORCH_SERIAL:
        return (_PARITY,), getattr(combined, _PARITY)
    if gate is SPEEDUP_N32:
        where, field = ("performance", str(GATED_ITEMS)), "speedup_vs_serial_p50"
        holder = UNSET if combined.performance is UNSET else combined.performance.get(str(GATED_ITEMS), UNSET)
        return (*where, field), UNSET if holder is UNSET else getattr(holder, field)
    kind = "same" if gate is SAME_LENGTH else "changed"
    section, field = "isolation", f"{kind}_length_mutation_max_abs_diff"
    if gate is EQUIVALENCE:
        section, field = "equivalence_query_plus_delimiter", "max_abs_diff"
        section = "equivalence" if combined.semantics == "query_prefix" else section
    found = getattr(combined, section)
    return (section, field), UNSET if found is UNSET else getattr(found, field)


def _shown(path: consistency.Path_) -> str:
    """A place, as it is written in a shell's JSON tool."""
    return ".".join(f'"{part}"' if part.isdecimal() else part for part in path)
