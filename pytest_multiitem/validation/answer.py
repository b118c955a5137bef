"""Whether an answer follows from its run's matrix and from the timings in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.acceptance.derive import derive
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.errors import UsageError
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.results.answer import Answer, Given
from pytest_multiitem.results.figures import contradictions, differs
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import MATRIX, read_matrix, schema_problems
from pytest_multiitem.scoring.limits import row_differences
from pytest_multiitem.validation import run

#: What does not follow from what was measured.
_STATED = ("package_version", "written_at_utc", "machine", "given")


def summary(answer: Answer) -> str:
    """What it holds, in a few words."""
    return answer.answer if answer.deploy is None else f"{answer.answer}, {answer.deploy} items a request"


def problems(artefact: Artefact[Answer]) -> list[str]:
    """What is wrong with an answer whose schema holds."""
    answer, given = artefact.record, artefact.record.given
    matrix: Matrix | None = None
    if given.matrix_sha256 is not None:
        path = artefact.path.parent / MATRIX
        try:
            content = read_bytes(path)
            matrix = read_matrix(path)
        except UsageError as error:
            return [f"its run cannot be read, from which it follows: {error}"]
        if hashlib.sha256(content).hexdigest() != given.matrix_sha256:
            return [f"{MATRIX} beside it is another one than it was made from"]
        decoded: dict[str, Any] = msgspec.json.decode(content)
        of_run = schema_problems(decoded) or run.problems(Artefact(path, matrix, decoded))
        if of_run:
            return [f"{MATRIX}: {text}" for text in of_run]
    found = [*_given(given, matrix), *_rows(given)]
    if not found:
        wanted = _derived(derive(matrix, given))
        found = [text for _, text in contradictions(_derived(answer), wanted, "what was measured gives")]
    return found


def _derived(answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.to_builtins(answer)
    return {name: value for name, value in content.items() if name not in _STATED}


def _given(given: Given, matrix: Matrix | None) -> Iterator[str]:
    """Whether it says of the run what the run says of itself."""
    if given.guardrail_ratio != GUARDRAIL_RATIO:
        yield f"given.guardrail_ratio is {given.guardrail_ratio}; the rule is {GUARDRAIL_RATIO}"
    if matrix is None:
        return
    said = {setting.name: setting.value for setting in matrix.settings}
    own = "workload" in said and said["workload"] != "-"
    for name, value, theirs in (
        ("effort", given.effort, said.get("effort", given.effort)),
        ("one_server", str(given.one_server), said.get("one_server", str(given.one_server))),
        ("own_traffic", given.own_traffic, own),
    ):
        if value != theirs:
            yield f"given.{name} is {value}; {MATRIX} says {theirs}"


def _rows(given: Given) -> Iterator[str]:
    """Whether its rows are times of its requests, and their differences those of the scores."""
    sizes = [row.client_chunk_size for row in given.rows]
    if len(set(sizes)) < len(sizes):
        yield f"given.rows: one client chunk size stands twice among {sizes}"
    most = max((request.items for request in given.timed), default=0)
    yield from (
        f"given.rows at {size}: no timed request has more than {most} items"
        for size in sizes
        if size is not None and given.timed and size > most
    )
    for at, request in enumerate(given.timed):
        places = request.serial_places
        if not places or sorted(set(places)) != places or not 0 <= places[0] <= places[-1] < request.items:
            yield f"given.timed[{at}].serial_places are no places of {request.items} items, ascending"
    for row in given.rows:
        where = f"given.rows at {row.client_chunk_size or 'the serial side'}"
        if len(row.runs_ms) != len(given.timed):
            yield f"{where}: runs of {len(row.runs_ms)} requests; {len(given.timed)} were timed"
        bad = [ms for runs in row.runs_ms for ms in runs if ms is not None and not 0 < ms < math.inf]
        if bad:
            yield f"{where}: a run took {bad[0]} ms; expected a time above 0"
        failed = sum(ms is None for runs in row.runs_ms for ms in runs)
        if failed != sum(row.failures.values()):
            yield f"{where}: {failed} runs have no time, and {sum(row.failures.values())} failures are counted"
    packed = [row for row in given.rows if row.client_chunk_size is not None]
    largest = max(packed, key=lambda row: row.client_chunk_size or 0, default=None)
    if largest is not None:
        try:
            apart = _apart(given)
        except ValueError as error:
            yield f"given.timed: its scores are none of the same items and labels ({error})"
            return
        where = f"given.rows at {largest.client_chunk_size}: max_abs_diff"
        if (largest.max_abs_diff is None) != (apart is None):
            yield f"{where} is {largest.max_abs_diff}; the scores give {apart}"
        yield from differs(where, largest.max_abs_diff, apart, "the scores give")


def _apart(given: Given) -> float | None:
    found = [
        float(row_differences(np.array(each.packed_scores), np.array(each.serial_scores), apply_softmax=True).max())
        for each in given.timed
        if each.serial_scores is not None and each.packed_scores is not None
    ]
    return max(found, default=None)
