"""A run's matrix and what was measured beside it → the answer. Nothing here measures.

YES needs every gate of `words.CORRECTNESS` to PASS, no gate to FAIL or be an ERROR, no wrong score, a run that came to
its end, and a saving whose interval lies above 1. A gate that wants equal bits may be INCONCLUSIVE where it is so for
rounding alone, and those that look for a leak beyond rounding PASS.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import pytest_multiitem
from pytest_multiitem.acceptance import words
from pytest_multiitem.acceptance.curve import Curve, curve_of, difference_problem, rival
from pytest_multiitem.gates.judge import MIN_SCORE_SPREAD, ROUNDING, judge_difference
from pytest_multiitem.gates.registry import gates as known_gates
from pytest_multiitem.results import details
from pytest_multiitem.results.answer import Answer, ChunkFigures, GateLine, Given, Word
from pytest_multiitem.results.machine import machine_info
from pytest_multiitem.results.records import GateRecord, Matrix
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.results.verdict import DESELECTED, Verdict, rank
from pytest_multiitem.signals import status_of

#: By an answer, unless a signal has ended the measurement.
EXIT_STATUS: dict[Word, int] = {"YES": 0, "NO": 1, "UNDECIDED": 5}
#: The gates whose value is how far packed scores are from serial ones.
_DISTANCES = ("delimiter_aligned_equiv_le_0p02", "equivalence_at_floor")
#: What a wrong delimiter of the user's breaks, where nothing leaks.
_BY_DELIMITER = {
    "delimiter_aligned_equiv_le_0p02", "equivalence_at_floor", "semantics_as_declared", "every_size_agrees",
    "every_label_agrees", "every_score_agrees", "metamorphic_relations_hold",
}  # fmt: skip


def derive(matrix: Matrix | None, given: Given) -> Answer:
    """The answer. ``matrix``: None where the gates have left none."""
    gates = _gates(matrix, given)
    allowed = _allowed(gates)
    curve = curve_of(given)
    wrong = difference_problem(given)
    complete = matrix is not None and matrix.complete and given.interrupted_by is None
    against = _against(gates, wrong, curve, given)
    open_points = [*_open(gates, allowed, matrix, curve, given)]
    word: Word = "NO" if against else "UNDECIDED" if open_points else "YES"
    chosen = curve.chosen if word == "YES" else None
    answer = Answer(
        answer=word,
        sentence="",
        reasons=against or open_points or _supports(gates, allowed, curve),
        exit_status=EXIT_STATUS[word] if given.interrupted_by is None else status_of(given.interrupted_by),
        deploy=None if chosen is None else chosen.client_chunk_size,
        times_as_fast=None if curve.chosen is None else curve.chosen.times_as_fast,
        interval_95=None if curve.chosen is None else curve.chosen.interval_95,
        guardrail_p95_ms=curve.limit_ms,
        largest_difference=_largest(matrix, given),
        answers_compared=_compared(matrix),
        complete=complete,
        rounding=allowed if word == "YES" else [],
        gates=gates,
        curve=curve.figures,
        not_measured=[*_not_measured([line for line in gates if word != "UNDECIDED" or not line.needed], given)],
        given=given,
        package_version=pytest_multiitem.__version__,
        written_at_utc=utc_now(),
        machine=machine_info(),
    )
    answer.sentence = _sentence(answer, curve)
    return answer


def _gates(matrix: Matrix | None, given: Given) -> list[GateLine]:
    """Every gate once, by its worst record that ran; those that a YES needs, always, and first."""
    records: dict[str, GateRecord] = {}
    for record in () if matrix is None else matrix.gates:
        known = records.get(record.gate)
        if known is None or _before(record, known):
            records[record.gate] = record
    lines = [_line(name, records.pop(name, None), given) for name in words.CORRECTNESS]
    return lines + [_line(name, record, given) for name, record in records.items()]


def _before(one: GateRecord, other: GateRecord) -> bool:
    """Whether a record says more against its gate than another one; one that did not run says nothing, and rounding
    less than any other doubt."""
    if Verdict.NOT_RUN in (one.verdict, other.verdict):
        return other.verdict is Verdict.NOT_RUN and one.verdict is not Verdict.NOT_RUN
    return (rank(one.verdict), _rounds(one)) < (rank(other.verdict), _rounds(other))


def _rounds(record: GateRecord) -> bool:
    """Whether a gate that wants equal bits is INCONCLUSIVE for rounding alone: what was measured gives this verdict
    with this reason, and nothing else was held against it."""
    if record.gate not in words.WANT_EQUAL_BITS or record.verdict is not Verdict.INCONCLUSIVE:
        return False
    gate = known_gates()[record.gate]
    if gate.limit is None:
        return record.reason.startswith(ROUNDING) and _relations_round(record)
    verdict, reason = judge_difference(gate, record.value, record)
    return verdict is Verdict.INCONCLUSIVE and ROUNDING in reason and record.reason == reason


def _relations_round(record: GateRecord) -> bool:
    """Whether rounding is all that keeps the rules between requests from a PASS: its reason hides other doubts."""
    seen = record.details
    return (
        isinstance(seen, details.Relations)
        and bool(seen.rounding)
        and not (seen.dismissed_as_noise or seen.not_reproduced or record.noise_floor)
        and seen.no_reference is None
        and seen.counterexample is None
        and 2 * seen.over_limit <= record.samples.get("examples", 0)
        and (record.score_spread or 0.0) > MIN_SCORE_SPREAD
    )


def _allowed(gates: Iterable[GateLine]) -> list[str]:
    """The gates whose rounding a YES may rest on: where those that look for a leak beyond rounding PASS."""
    lines = {line.gate: line for line in gates}
    if any(lines[name].verdict != Verdict.PASS for name in words.BEYOND_ROUNDING):
        return []
    return [name for name in words.WANT_EQUAL_BITS if lines[name].rounding]


def _line(name: str, record: GateRecord | None, given: Given) -> GateLine:
    excused = given.one_server and name in words.NEEDS_A_SERIAL_SERVER
    found = GateLine(
        gate=name,
        verdict=Verdict.NOT_RUN.value,
        says=words.says(name),
        reason=words.NOT_REACHED,
        needed=name in words.CORRECTNESS and not excused,
    )
    if record is not None:
        found.verdict, found.reason, found.value = record.verdict.value, record.reason, record.value
        found.rounding = _rounds(record)
    return found


def _against(gates: Iterable[GateLine], wrong: str | None, curve: Curve, given: Given) -> list[str]:
    """What makes it a NO, in plain words; the first says most."""
    failed = [line for line in gates if line.verdict == Verdict.FAIL]
    reasons, silent = [], dict[str, list[GateLine]]()
    for line in failed:
        said = words.no_scores(line.reason) if line.value is None else None
        if said is None:
            reasons.append(_failed(line))
        else:
            silent.setdefault(said, []).append(line)
    reasons += [_without_scores(said, lines) for said, lines in silent.items()]
    if wrong is not None:
        reasons.append(f"an answer to a timed request is wrong: {wrong}")
    names = {line.gate for line in failed}
    if names and names <= _BY_DELIMITER and not given.delimiter_told:
        reasons.append(
            f"the server does not tell its delimiter, and {given.delimiter} was taken; if it is another one, give it: "
            "--multiitem-delimiter ID"
        )
    interval = None if curve.chosen is None else curve.chosen.interval_95
    if interval is not None and interval[1] < 1:
        reasons.append(f"packing is not faster than one request for each candidate: {_pace(curve.chosen)}")
    return reasons


def _failed(line: GateLine) -> str:
    value = "" if line.value is None or line.gate.startswith("negative") else f", by up to {words.small(line.value)}"
    if line.gate == "speedup_n32_ge_3x":
        value = "" if line.value is None else f", only {words.factor(line.value)} times"
    return f"{words.means(line.gate)}{value} ({line.gate}: {_short(line.reason)})"


def _without_scores(said: str, lines: Sequence[GateLine]) -> str:
    """What is against a server that gave these gates no scores for one cause: nothing is known of the scores then."""
    first, *more = lines
    others = f", and {words.counted(len(more), 'more gate')} for the same" if more else ""
    return f"{said} ({first.gate}: {_short(first.reason)}{others})"


def _short(reason: str) -> str:
    first = " ".join(reason.split("\n", 1)[0].split())
    return first if len(first) <= 200 else f"{first[:200]} …"


def _open(
    gates: Iterable[GateLine], allowed: Collection[str], matrix: Matrix | None, curve: Curve, given: Given
) -> Iterator[str]:
    """What keeps it from being a YES."""
    if given.problem is not None:
        yield given.problem
    if given.interrupted_by is not None:
        yield _ended(given.interrupted_by)
    wrong_alone = next((row.wrong for row in given.rows if row.client_chunk_size is None and row.wrong), None)
    if wrong_alone is not None:
        yield f"the serial side contradicts itself, so nothing can be compared with it: {wrong_alone}"
    if matrix is None and given.problem is None:
        yield "the gates left no results"
    missing = [line for line in gates if line.needed and line.reason == words.NOT_REACHED]
    if missing and given.interrupted_by is not None:
        yield f"{words.counted(len(missing), 'gate')} on the scores {'were' if missing[1:] else 'was'} not measured"
    for line in gates:
        if line.gate in allowed or (line in missing and given.interrupted_by is not None):
            continue
        if line.verdict == Verdict.ERROR:
            yield f"whether {line.says} could not be measured ({line.gate}: {_short(line.reason)})"
        elif line.needed and line.verdict != Verdict.PASS and (matrix is not None or line.verdict != Verdict.NOT_RUN):
            yield f"whether {line.says} is not decided ({line.gate} {line.verdict}: {_short(line.reason)})"
    if matrix is not None and not matrix.complete and given.interrupted_by is None:
        yield f"the gates did not come to their end ({matrix.interrupted_by or 'the run ended early'})"
    if curve.chosen is None:
        yield f"no client chunk size was timed ({given.not_timed or _why_none(curve)})"
    elif curve.chosen.interval_95 is None:
        yield f"how much packing saves is not known ({given.not_timed or 'the serial side was not timed often enough'})"
    elif not curve.chosen.interval_95[0] > 1 and curve.chosen.interval_95[1] >= 1:
        yield (
            f"whether packing saves anything is not shown: {_pace(curve.chosen)}, and that includes 1; repeat it on a "
            f"quiet machine{_longer(given)}"
        )


def _ended(by: str) -> str:
    return f"the measurement was ended early ({by})"


def _longer(given: Given) -> str:
    after = {"quick": "normal", "normal": "full"}.get(given.effort)
    return "" if after is None else f", or with --effort {after}"


def _why_none(curve: Curve) -> str:
    reasons = [f.why_not for f in curve.figures if f.client_chunk_size is not None and f.why_not is not None]
    return reasons[0] if reasons else "nothing was timed"


def _pace(figures: ChunkFigures | None) -> str:
    """A speed-up with its interval: 9.1 times as fast (95 %: 8.4 to 9.8)."""
    assert figures is not None
    assert figures.times_as_fast is not None
    interval = figures.interval_95
    bounds = "" if interval is None else f" (95 %: {words.factor(interval[0])} to {words.factor(interval[1])})"
    return f"{words.factor(figures.times_as_fast)} times as fast{bounds}"


def _supports(gates: Iterable[GateLine], allowed: Collection[str], curve: Curve) -> list[str]:
    needed = [line for line in gates if line.needed]
    found = [f"{len(needed) - len(allowed)} of {len(needed)} gates on the scores PASS"]
    found += [
        f"{line.gate} is {line.verdict} for rounding alone ({_short(line.reason)}), and "
        f"{' and '.join(words.BEYOND_ROUNDING)}, which look for a leak beyond rounding, PASS"
        for line in needed
        if line.gate in allowed
    ]
    return [*found, f"packing is {_pace(curve.chosen)}"]


def _largest(matrix: Matrix | None, given: Given) -> float | None:
    """The largest difference between a packed score and the one that a candidate gets alone, of all that is known."""
    found = [row.max_abs_diff for row in given.rows]
    for record in () if matrix is None else matrix.gates:
        if record.gate in _DISTANCES:
            found.append(record.value)
        if isinstance(record.details, details.EveryScore):
            found.append(record.details.serial_max_abs_diff)
    known = [value for value in found if value is not None and math.isfinite(value)]
    return max(known, default=None)


def _compared(matrix: Matrix | None) -> int:
    """Answers of the gates' run that were compared with something that they must equal."""
    records = () if matrix is None else matrix.gates
    return max((r.samples.get("answers", 0) for r in records if isinstance(r.details, details.EveryScore)), default=0)


def _not_measured(gates: Iterable[GateLine], given: Given) -> Iterator[str]:
    left_out = [line.gate for line in gates if line.reason == DESELECTED and line.gate not in words.TOLD]
    for line in gates:
        if line.gate not in left_out and line.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE):
            reason = f"left out at --effort {given.effort}" if line.reason == DESELECTED else _short(line.reason)
            yield f"whether {line.says}: {line.gate} {line.verdict}: {reason}"
    if left_out:
        yield f"left out, since no answer rests on them: {', '.join(left_out)}"
    if given.not_timed is not None:
        yield f"client chunk sizes: {given.not_timed}"
    if not given.own_traffic:
        yield "your own traffic: give it with --workload FILE"
    yield "requests at the same time, timed: multiitem load does that"


def _sentence(answer: Answer, curve: Curve) -> str:
    if answer.answer == "YES":
        return f"YES: {_yes(answer, curve)}."
    first, *more = answer.reasons
    others = f" {len(more)} more against it below." if answer.answer == "NO" and more else ""
    others = f" {len(more)} more open below." if answer.answer == "UNDECIDED" and more else others
    if answer.answer == "NO":
        by = answer.given.interrupted_by
        ended = "" if by is None else f" Besides, {_ended(by)}: more may be against it."
        return f"NO: do not pack on this server as it is: {first}.{others}{ended}"
    return f"UNDECIDED: {first}.{others}"


def _yes(answer: Answer, curve: Curve) -> str:
    chosen, given = curve.chosen, answer.given
    assert chosen is not None
    evidence = (
        [] if answer.largest_difference is None else [f"largest difference {words.small(answer.largest_difference)}"]
    )
    if given.own_traffic and given.requests is not None:
        evidence.append(f"{words.counted(given.requests, 'request')} of your traffic")
    if answer.answers_compared:
        evidence.append(f"{words.counted(answer.answers_compared, 'answer')} compared")
    moved = max((line.value or 0.0 for line in answer.gates if line.gate in answer.rounding), default=None)
    if moved is not None:
        evidence.insert(1, f"a neighbour moves it by {words.small(moved)} at most, as the shape of a batch alone does")
    text = (
        f"packing {chosen.client_chunk_size} candidates a request gives every candidate the score it gets alone"
        f"{', up to rounding' if answer.rounding else ''} ({', '.join(evidence)}) and is {_pace(chosen)}; deploy "
        f"{chosen.client_chunk_size} a request"
    )
    other = rival(curve.figures, chosen)
    return text if other is None else f"{text}: {other.client_chunk_size} is {other.why_not}"
