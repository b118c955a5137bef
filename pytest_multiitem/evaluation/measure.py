"""Measuring one endpoint, step by step; what was measured before a failure is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.bench.curve import one_of_each_shape, run_requests, summary
from pytest_multiitem.bench.referee import Answered, Referee
from pytest_multiitem.evaluation import records
from pytest_multiitem.evaluation.records import Evaluation, Failure, FurtherCase, Isolation, Mutation
from pytest_multiitem.evaluation.requests import Requests
from pytest_multiitem.gates import evidence as measurement
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.scoring import cases as scoring_cases
from pytest_multiitem.scoring.cases import Case, first_items
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.answers import Ask
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreFailure, Scores, prepare

#: The stages by name, as a failure gives them.
SCORES, MUTATIONS, ALIGNMENT = "scores", "mutations", "query plus delimiter"
VISIBILITY, TIMING = "leak visibility", "timing"

#: The mutations behind each field that holds the worst of them.
KINDS = {"same_length_mutation": ("same_length",), "changed_length_mutation": ("longer", "shorter")}


def measure(
    target: Target, requests: Requests, into: Evaluation, settings: Settings, say: Callable[[str], None]
) -> None:
    """Measure everything of ``into.mode`` and enter it ``into`` an evaluation as it comes.

    A request that fails ends the evaluation; ``into.failure`` says where and how, as it does on Ctrl-C. ``say`` is
    told every stage.
    """
    into.isolation, *further = [
        Isolation(**_ids(case), name=case.name, labels=list(case.labels)) for case in requests.cases
    ]
    into.further_cases = [FurtherCase(isolation=isolation) for isolation in further]
    into.timed_request, *into.further_timed = [records.TimedRequest(**_ids(case)) for case in requests.timed]
    owners: list[Evaluation | FurtherCase] = [into, *into.further_cases]
    pairs = list(zip(requests.cases, owners, strict=True))
    stage = SCORES
    into.complete = False
    try:
        with _attested(target, into, "scores"):
            say(f"{SCORES}: {len(requests.cases)} requests, {sum(len(c.items) for c in requests.cases)} items")
            for case, owner in pairs:
                measurement.replayed(target, case, _keep_scores(owner.isolation))
            say(stage := MUTATIONS)
            for case, owner in pairs:
                _mutate(target, case, owner.isolation, settings.seed)
            if into.mode == "serial":
                say(stage := ALIGNMENT)
                for case, owner in pairs:
                    _align(target, case, owner, into.delimiter)
                say(stage := VISIBILITY)
                _see_leaks(target, requests.cases, into)
        stage = TIMING
        answers = _TimedAnswers(target)
        with _attested(target, into, "timing"):
            for count in settings.items:
                say(f"{TIMING}: {count} items")
                _time(target, first_items(requests.timed, count), into, settings, answers)
        say(f"{TIMING}: judging {len(answers.heard)} answers")
        into.failure = answers.judged(into, settings.seed)
        into.score_problem = _others_judged(target, settings.seed)
        into.complete = into.failure is None
    except ScoreFailure as failure:
        message = str(failure).removeprefix(f"{failure.kind.value}: ")
        into.failure = Failure(stage=stage, kind=failure.kind.value, message=message, status=failure.status)
    except KeyboardInterrupt:
        into.failure = Failure(stage=stage, kind="interrupted", message="stopped by the user")
        raise


def _ids(case: Case) -> dict[str, Any]:
    return {"query_ids": list(case.query), "item_ids": [list(item) for item in case.items]}


@contextmanager
def _attested(target: Target, into: Evaluation, what: str) -> Iterator[None]:
    with target.attest() as attestation:
        yield
    into.attestation[what] = records.Attested(**vars(attestation))


def _keep_scores(isolation: Isolation) -> Recorder:
    """Takes down the first answer as the scores, and those after it as replays."""

    def keep(line: dict[str, Any]) -> None:
        if isolation.base_scores is None:
            isolation.base_scores = line["scores"]
        else:
            isolation.replays = [*(isolation.replays or ()), line["scores"]]

    return keep


def _mutate(target: Target, case: Case, isolation: Isolation, seed: int) -> None:
    """Mutate the first, a middle and the last item. A request of one item has no untouched one."""
    isolation.mutations = []
    if len(case.items) < 2:
        return
    base = np.array(isolation.base_scores)
    for name, kinds in KINDS.items():
        for mutation in scoring_cases.mutations(case, kinds, seed=seed):
            scored = _mutation(mutation, base, target.score(mutation.case))
            isolation.mutations.append(scored)
            worst = getattr(isolation, name)
            if worst is None or scored.max_abs_diff_unchanged > worst.max_abs_diff_unchanged:
                setattr(isolation, name, scored)


def _mutation(mutation: scoring_cases.Mutation, base: Scores, scores: Scores) -> Mutation:
    others = np.delete(np.abs(scores - base).max(axis=1), mutation.index)
    return Mutation(
        mutated_index=mutation.index,
        mutated_item_ids=list(mutation.case.items[mutation.index]),
        scores=scores.tolist(),
        unchanged_item_abs_diffs=others.tolist(),
        max_abs_diff_unchanged=float(others.max()),
        mean_abs_diff_unchanged=float(others.mean()),
        mutation=mutation.kind,
    )


def _align(target: Target, case: Case, owner: Evaluation | FurtherCase, delimiter: int) -> None:
    aligned = replace(case, query=(*case.query, delimiter))

    def keep(line: dict[str, Any]) -> None:
        if owner.semantic_alignment is None:
            owner.semantic_alignment = records.Alignment(
                query_plus_delimiter_ids=list(aligned.query), base_scores_query_plus_delimiter=line["scores"]
            )
        else:
            known = owner.semantic_alignment
            known.replays = [*(known.replays or ()), line["scores"]]

    measurement.replayed(target, aligned, keep)


def _see_leaks(target: Target, cases: Sequence[Case], into: Evaluation) -> None:
    """For both production semantics: which one the multi-item side has is not known here."""
    into.leak_visibility = {}
    for semantics in Semantics:
        if not semantics.has_serial_reference:
            continue
        lines: list[dict[str, Any]] = []
        _, shifts = measurement.leak_visibility(target, cases, semantics, into.delimiter, lines.append)
        scores = [line["scores"] for line in lines]
        into.leak_visibility[semantics.value] = records.LeakVisibility(shifts=shifts, scores=scores)


class _TimedAnswers:
    """The answers of the timing, warm-ups too, each with the N that it belongs to and the number of its run."""

    def __init__(self, target: Target) -> None:
        self.heard: list[tuple[int, int, Answered]] = []
        self._target, self._begin = target, target.answers.mark()

    def take(self, count: int, run: int, since: int) -> int:
        """Take what the target has answered from a place on; gives the next place."""
        answered = self._target.answers.heard(since)
        self.heard += [(count, run, each) for each in answered]
        return since + len(answered)

    def judged(self, into: Evaluation, seed: int) -> Failure | None:
        """Compare each with what the same items score in smaller requests: enters the runs that are wrong."""
        target, limit = self._target, placed_limit(self._target.dtype)
        ask = _asks(target)
        found = target.answers.judge(ask, limit=limit, seed=seed, since=self._begin)
        referee = Referee(target.answers, ask, limit=limit, seed=seed)
        wrong = referee.wrong([answered for _, _, answered in self.heard])
        into.timing_doubt = found.doubt or referee.doubt
        runs = {(count, run): row for (count, run, _), row in zip(self.heard, wrong, strict=True) if row is not None}
        for count, timing in into.performance.items():
            timing.wrong_scores = sum(str(of) == count for of, _ in runs)
        if runs:
            worst = max(runs.values(), key=lambda row: row.difference)
            message = f"{len(runs)} timed runs and warm-ups have wrong scores: {worst}"
        elif found.problem is not None:  # of what was asked again
            message = found.problem.removeprefix(f"{FailureKind.WRONG_SCORES.value}: ")
        else:
            return None
        return Failure(stage=TIMING, kind=FailureKind.WRONG_SCORES.value, message=message)


def _asks(target: Target) -> Ask:
    """As the mode asks: a serial server is asked item by item."""

    def ask(request: PreparedRequest) -> Scores:
        return target.client.score(request.query, request.items, request.labels, apply_softmax=request.apply_softmax)

    return ask


def _others_judged(target: Target, seed: int) -> str | None:
    """What is wrong with an answer outside the timing, or why it cannot be told."""
    try:
        return target.answers.judge(_asks(target), limit=placed_limit(target.dtype), seed=seed).problem
    except ScoreFailure as failure:
        return f"the scores could not be judged: {failure}"


def _time(target: Target, cases: Sequence[Case], into: Evaluation, settings: Settings, answers: _TimedAnswers) -> None:
    """Time N items: packed requests, or N one-item requests. Encoded before the clock starts; answers are read after it
    stops."""
    if into.mode == "serial":
        timed = [prepare(case.query, [item], case.labels) for case in cases for item in case.items]
        warm = one_of_each_shape(*cases)
    else:
        timed = warm = [prepare(case.query, case.items, case.labels) for case in cases]
    count = sum(len(case.items) for case in cases)
    place = target.answers.mark()
    for number in range(settings.bench_warmup_runs):
        run_requests(target, warm)
        place = answers.take(count, -1 - number, place)
    seconds: list[float] = []
    for number in range(settings.bench_timed_runs):
        seconds.append(run_requests(target, timed))
        place = answers.take(count, number, place)
        times = summary(seconds, count)
        into.performance[str(count)] = records.Timing(**msgspec.structs.asdict(times))
