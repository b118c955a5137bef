"""Whether an evaluation, and two of them combined, say what follows from their scores and times."""

from __future__ import annotations

from msgspec import UNSET

from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.evaluation import check, consistency, validity
from pytest_multiitem.evaluation.records import Combined, Evaluation
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.validation import public_evaluation


def problems(artefact: Artefact[Evaluation]) -> list[str]:
    """What is wrong with an evaluation whose schema holds."""
    broken = [*validity.problems(validity.Side(artefact.path, artefact.record))]
    return broken or [*consistency.of_evaluation(artefact.record)]


def summary(evaluation: Evaluation) -> str:
    """What it holds, in a few words."""
    ended = "" if evaluation.failure is None else f", ended early at {evaluation.failure.stage}"
    counts = ", ".join(evaluation.performance) or "-"
    return f"{evaluation.mode}, {1 + len(evaluation.further_cases)} requests scored, N = {counts} timed{ended}"


def combined_problems(artefact: Artefact[Combined]) -> list[str]:
    """What is wrong with combined results whose schema holds."""
    found = [text for _, text in consistency.of_combined(artefact.record)]
    return [*found, *public_evaluation.problems(artefact.content)]


def combined_summary(combined: Combined) -> str:
    """What it holds, in a few words, where nothing in it is a contradiction. What a file without the evaluations that
    it was joined from, which may hold one section, does not hold is not counted."""
    whole = combined.sources is not UNSET
    verdicts = [record.verdict for record in check.judge(combined, found=()) if whole or record.value is not None]
    return ", ".join(f"{verdicts.count(each)} {each}" for each in Verdict if each in verdicts)
