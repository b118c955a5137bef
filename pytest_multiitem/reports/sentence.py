"""What an artefact comes to, in one sentence and one colour; the one place where that is put in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_multiitem.bench.load_records import LoadReport
from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.records import Comparison, PairRecord, ScoreMatrix
from pytest_multiitem.gates.content_isolation import CONTENT_ISOLATION
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.speedup import GATED_ITEMS, SPEEDUP_N32
from pytest_multiitem.models.records import ModelMatrix
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.power.summary import verdict as power_verdict
from pytest_multiitem.reports.load import remarks
from pytest_multiitem.reports.table import number, where
from pytest_multiitem.results.answer import Answer, Word
from pytest_multiitem.results.details import Speedup
from pytest_multiitem.results.records import GateRecord, Matrix
from pytest_multiitem.results.verdict import Verdict

Light = Literal["red", "yellow", "green"]
#: From the worst to the best.
LIGHTS: tuple[Light, ...] = ("red", "yellow", "green")
#: Characters of a reason in a headline.
_REASON, _HEADLINE = 260, 150


_OF_WORD: Mapping[Word, Light] = {"YES": "green", "NO": "red", "UNDECIDED": "yellow"}


@dataclass(frozen=True)
class Said:
    """The colour, the word that says it too, the rest of the headline, and what else belongs to the answer."""

    light: Light
    word: str
    headline: str
    sentences: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """0 is the worst colour."""
        return LIGHTS.index(self.light)

    def __str__(self) -> str:
        return f"{self.word} {self.headline}"


def of_gates(records: Sequence[GateRecord]) -> Said:
    """Of the verdicts of some gates."""
    counts = Counter(record.verdict for record in records)
    measured = len(records) - counts[Verdict.NOT_RUN]
    left = f"; {counts[Verdict.NOT_RUN]} could not be measured" if counts[Verdict.NOT_RUN] else ""
    for verdict, light, word, what in (
        (Verdict.FAIL, "red", "FAIL", "fail"),
        (Verdict.ERROR, "red", "ERROR", "are errors"),
        (Verdict.INCONCLUSIVE, "yellow", "UNDECIDED", "cannot be decided"),
    ):
        if counts[verdict]:
            first = next(record for record in records if record.verdict is verdict)
            headline = f"{counts[verdict]} of {measured} measured verdicts {what}. {first.gate} ({where(first)}): "
            return Said(light, word, headline + shortened(first.reason, _HEADLINE), _shown(records))  # type: ignore[arg-type]
    if not measured:
        return Said("yellow", "NOT MEASURED", f"none of {len(records)} gates was measured." if records else "no gate.")
    return Said("green", "PASS", f"all {measured} verdicts that were measured hold{left}.", _shown(records))


def of_run(matrix: Matrix) -> Said:
    """Of a run: its verdicts, unless it ended early or with an exit status that they do not explain."""
    said = of_gates(matrix.gates)
    if said.light == "green" and not matrix.complete:
        why = matrix.interrupted_by or "it ended before every test was reached"
        return Said("yellow", "INCOMPLETE", f"what was measured holds, but the run did not end: {why}.", said.sentences)
    if said.light == "green" and matrix.exit_status:
        failed = [test for test in matrix.tests if test.outcome == "failed"]
        why = f"{len(failed)} tests failed beside the gates" if failed else "a required gate was not measured"
        text = f"every measured gate holds, but the run ended with exit status {matrix.exit_status}: {why}."
        return Said("yellow", "NOT ACCEPTED", text, said.sentences)
    return said


def of_answer(answer: Answer) -> Said:
    """Of an acceptance: its sentence."""
    return Said(_OF_WORD[answer.answer], answer.answer, answer.sentence.removeprefix(f"{answer.answer}: "))


def _shown(records: Sequence[GateRecord]) -> tuple[str, ...]:
    """What was shown of scores and speed, of the gates that hold."""
    sentences = []
    moved = _largest(records, SAME_LENGTH.name, CHANGED_LENGTH.name, CONTENT_ISOLATION.name)
    visible = [r.leak_visibility for r in records if r.gate == SAME_LENGTH.name and r.leak_visibility is not None]
    if moved is not None:
        leak = f"; a leak would move it by {number(min(visible))}" if visible else ""
        sentences.append(f"When its neighbours change, the score of an item moves by {number(moved)} at most{leak}.")
    apart = _largest(records, EQUIVALENCE.name)
    if apart is not None:
        sentences.append(f"Scored with others, an item gets the score that it gets alone, to within {number(apart)}.")
    speeds = {
        where(r): point
        for r in records
        if r.gate == SPEEDUP_N32.name and isinstance(r.details, Speedup)
        if (point := r.details.performance.get(str(GATED_ITEMS))) is not None
    }
    ratios = [p.speedup_vs_serial_p50 for p in speeds.values() if p.speedup_vs_serial_p50 is not None]
    if ratios:
        interval = next(iter(speeds.values())).speedup_interval_95 if len(speeds) == 1 else None
        sure = "" if interval is None else f" (95 %: {number(interval[0])} to {number(interval[1])})"
        span = number(ratios[0]) if len(ratios) == 1 else f"{number(min(ratios))} to {number(max(ratios))}"
        sentences.append(
            f"One request of {GATED_ITEMS} items is {span} times as fast as {GATED_ITEMS} requests of one{sure}."
        )
    return tuple(sentences)


def _largest(records: Iterable[GateRecord], *names: str) -> float | None:
    """The largest value of some gates; None where one of them does not hold, or there is none."""
    mine = [record for record in records if record.gate in names and record.verdict is not Verdict.NOT_RUN]
    if not mine or any(record.verdict is not Verdict.PASS or record.value is None for record in mine):
        return None
    return max(record.value or 0.0 for record in mine)


def of_comparison(comparison: Comparison) -> Said:
    """Of a comparison: what to deploy."""
    checks = [check for view in comparison.views for row in view.rows for check in row.checks]
    checks += [check for side in comparison.sides for check in side.own_reference_checks]
    chosen = comparison.recommendation
    text = comparison.summary or (chosen.text if chosen is not None else "nothing is recommended.")
    reasons = tuple(chosen.reasons) if chosen is not None else ()
    if chosen is None or chosen.winner is None:
        bad = any(check.verdict == Verdict.FAIL for check in checks)
        return Said("red" if bad else "yellow", "FAIL" if bad else "UNDECIDED", text, reasons)
    if comparison.status == "partial" or chosen.confidence in ("low", "none"):
        return Said("yellow", "UNDECIDED", text, reasons)
    return Said("green", "DEPLOY", text, reasons)


def of_score_matrix(matrix: ScoreMatrix) -> Said:
    """Of one side: the client chunk size that it recommends."""
    side = f"{display_name(matrix.backend)}, {matrix.evaluation_view}"
    final = matrix.summary.final_recommendation
    if final is None or final.selected is None:
        why = matrix.blocker or "; ".join(final.notes if final is not None else ()) or "no row may win"
        return Said("yellow", "UNDECIDED", f"no client chunk size is recommended for {side}: {why}.")
    selected = final.selected
    speed = "" if selected.throughput_items_sec is None else f": {number(selected.throughput_items_sec)} items/s"
    return Said("green", "DEPLOY", f"{selected.client_chunk_size} items a request for {side}{speed}.")


def of_power(matrix: KillMatrix) -> Said:
    """Of a kill matrix: whether every fault is seen, and nothing else."""
    status, problems = power_verdict(matrix)
    healthy = [build for build in matrix.builds if build.fault is None]
    fine = sum(bool(build.as_expected) for build in healthy)
    killed = sum(map(len, matrix.killed.values()))
    wanted = len(matrix.expected) * len(matrix.killed)
    counts = f"{killed} of {wanted} planted faults are seen, and {fine} of {len(healthy)} healthy builds pass."
    if status == 0:
        return Said("green", "PASS", f"the gates can fail: {counts}")
    survives = any(build.as_expected is False for build in matrix.builds)
    word = "FAIL" if survives else "INCOMPLETE"
    return Said("red" if survives else "yellow", word, counts, tuple(map(shortened, problems[:5])))


def of_load(report: LoadReport) -> Said:
    """Of a measurement under load: goodput, and from where on the server is saturated."""
    wrong, told = report.wrong_answers, remarks(report)
    if wrong:
        return Said("red", "FAIL", f"{wrong} answers under load have wrong scores.", (told[-1],))
    barren = [level.label for level in report.levels if not level.successful]
    if barren or (report.scores is not None and report.scores.problem is not None):
        why = (
            f"no request succeeded at {', '.join(barren)}." if barren else "the server contradicts itself without load."
        )
        return Said("red", "FAIL", why, (told[-1],))
    if report.max_goodput_items_per_sec <= 0:
        return Said("yellow", "TOO SLOW", f"{told[-1]}.")
    if any(level.saturated for level in report.levels):
        return Said("yellow", "SATURATED", f"{told[-1]}.")
    return Said("green", "MEASURED", f"{told[-1]}.")


def of_models(matrix: ModelMatrix) -> Said:
    """Of a matrix of models."""
    bad = [cell for cell in matrix.cells if cell.state in ("fail", "error", "now_passes")]
    counts = f"{len(matrix.cells)} of {len(matrix.planned)} combinations were looked at"
    if bad:
        names = ", ".join(f"{cell.model} on {cell.backend}, {cell.mask}" for cell in bad[:3])
        return Said("red", "FAIL", f"{len(bad)} combinations are not as expected ({names}); {counts}.")
    if not matrix.complete or any(cell.state == "inconclusive" for cell in matrix.cells):
        return Said("yellow", "UNDECIDED", f"{counts}; not everything is decided.")
    if not any(cell.state in ("pass", "expected_failure") for cell in matrix.cells):
        return Said("yellow", "NOT MEASURED", f"{counts}; none was measured.")
    return Said("green", "PASS", f"{counts}; every one that was measured is as expected.")


def of_pair(record: PairRecord) -> Said:
    """Of two arms."""
    interval = record.ratio_interval_95
    sure = "" if interval is None else f" (95 %: {number(interval[0])} to {number(interval[1])})"
    words = {"a_faster": "A is faster", "b_faster": "B is faster", "no_difference_shown": "no difference is shown"}
    known = words.get(record.verdict, record.verdict)
    apart = None if record.agreement is None else record.agreement.max_abs_diff
    scores = () if apart is None else (f"Scores differ by at most {number(apart)}.",)
    if record.ratio_p50 is None:
        return Said("yellow", "UNDECIDED", f"{known}.", scores)
    return Said("green", "MEASURED", f"A's median over B's is {number(record.ratio_p50)}{sure}: {known}.", scores)


def shortened(text: str, most: int = _REASON) -> str:
    """The beginning of a reason, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"
