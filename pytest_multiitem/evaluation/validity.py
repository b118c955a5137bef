"""Whether an evaluation file can be used: shapes, finite numbers, requests that fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation.records import Alignment, Evaluation, FurtherCase, Isolation, Rows, read_evaluation
from pytest_multiitem.transport.client import Scores


@dataclass(frozen=True)
class Side:
    """An evaluation and the file that it came from."""

    path: Path
    evaluation: Evaluation

    @property
    def cases(self) -> list[tuple[Isolation, Alignment | None]]:
        """Every request's results; the first is the one under the final names."""
        owners: list[Evaluation | FurtherCase] = [self.evaluation, *self.evaluation.further_cases]
        return [(owner.isolation, owner.semantic_alignment) for owner in owners]

    @property
    def bases(self) -> list[Scores]:
        """Scores [N, K] of every request; fewer where the evaluation ended early."""
        return [np.array(isolation.base_scores) for isolation, _ in self.cases if isolation.base_scores is not None]

    @property
    def aligned(self) -> list[Scores] | None:
        """Scores [N, K] of every request behind ``query + delimiter``; None where not all were scored."""
        scores = [np.array(a.base_scores_query_plus_delimiter) for _, a in self.cases if a is not None]
        return scores if len(scores) == len(self.cases) else None


def open_side(path: Path, mode: str) -> Side:
    """Read the evaluation of one side. Raises UsageError naming the field that cannot be used."""
    evaluation = read_evaluation(path)
    if evaluation.mode != mode:
        raise UsageError(f"{path}: mode is {evaluation.mode!r}; expected the file of: multiitem evaluate --mode {mode}")
    problem = next(problems(Side(path, evaluation)), None)
    if problem is not None:
        raise UsageError(f"{path}: {problem}")
    return Side(path, evaluation)


def check_same_requests(left: Side, right: Side, *, timed: bool = True) -> None:
    """Raise UsageError where two sides were sent different requests, or serve different models, naming the first
    difference. ``timed``: what was timed counts too."""
    ours, theirs = left.evaluation, right.evaluation
    pairs: list[tuple[str, Any, Any]] = [
        ("labels", ours.labels, theirs.labels),
        ("delimiter", ours.delimiter, theirs.delimiter),
        ("further_cases", len(ours.further_cases), len(theirs.further_cases)),
    ]
    for at, ((mine, _), (other, _)) in enumerate(zip(left.cases, right.cases, strict=False)):
        where = _place(at)
        pairs += _fields(where, mine, other, "query_ids", "item_ids")
        pairs.append((f"{where}.labels", mine.labels or ours.labels, other.labels or theirs.labels))
        for number, both in enumerate(zip(mine.mutations or (), other.mutations or (), strict=False)):
            pairs += _fields(f"{where}.mutations[{number}]", *both, "mutated_index", "mutated_item_ids")
    if timed and ours.timed_request is not None and theirs.timed_request is not None:
        pairs += _fields("timed_request", ours.timed_request, theirs.timed_request, "query_ids", "item_ids")
        pairs.append(("further_timed", len(ours.further_timed), len(theirs.further_timed)))
        for at, each in enumerate(zip(ours.further_timed, theirs.further_timed, strict=False)):
            pairs += _fields(f"further_timed[{at}]", *each, "query_ids", "item_ids")
    for name, mine, other in pairs:
        if mine != other:
            raise UsageError(
                f"{left.path} and {right.path} hold different requests: {_difference(name, mine, other)}; evaluate "
                "both sides with the same --seed, --labels, --delimiter, --vocab-size, --items, --query-tokens, "
                "--item-tokens and --workload"
            )
    if _name(ours.model) != _name(theirs.model) and ours.model and theirs.model:
        raise UsageError(
            f"{left.path} is of the model {ours.model!r}, {right.path} of {theirs.model!r}; where they are one and the "
            "same, evaluate both with --model NAME"
        )


def _fields(where: str, left: object, right: object, *names: str) -> list[tuple[str, Any, Any]]:
    return [(f"{where}.{name}", getattr(left, name), getattr(right, name)) for name in names]


def _difference(name: str, left: Any, right: Any) -> str:
    """The innermost place in which two values differ."""
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return f"{name} has {len(left)} and {len(right)} entries"
        at = next(i for i, (a, b) in enumerate(zip_longest(left, right)) if a != b)
        return _difference(f"{name}[{at}]", left[at], right[at])
    return f"{name} is {left!r} and {right!r}"


def _name(model: str | None) -> str:
    """A model's own name: the same one may lie in different directories of different machines."""
    return (model or "").rstrip("/").rpartition("/")[2]


def _place(at: int) -> str:
    return "isolation" if at == 0 else f"further_cases[{at - 1}].isolation"


def problems(side: Side) -> Iterator[str]:
    """What keeps an evaluation from being used: shapes, numbers that are not finite, what is missing."""
    evaluation = side.evaluation
    if not evaluation.labels:
        yield "labels is empty"
    for at, (isolation, alignment) in enumerate(side.cases):
        where = _place(at)
        size = (len(isolation.item_ids), len(isolation.labels or evaluation.labels))
        if size[0] == 0:
            yield f"{where}.item_ids is empty"
        if isolation.base_scores is None:
            if evaluation.failure is None:
                yield f"{where}.base_scores is missing"
            continue
        yield from _scores(f"{where}.base_scores", isolation.base_scores, size)
        for number, replay in enumerate(isolation.replays or ()):
            yield from _scores(f"{where}.replays[{number}]", replay, size)
        named = {f"{where}.{n}": getattr(isolation, n) for n in ("same_length_mutation", "changed_length_mutation")}
        named |= {f"{where}.mutations[{n}]": mutation for n, mutation in enumerate(isolation.mutations or ())}
        for name, mutation in named.items():
            if mutation is not None:
                if not 0 <= mutation.mutated_index < size[0]:
                    yield f"{name}.mutated_index is {mutation.mutated_index}; expected 0 to {size[0] - 1}"
                yield from _scores(f"{name}.scores", mutation.scores, size)
            elif isolation.mutations is None and evaluation.failure is None and evaluation.mode == "multi":
                yield f"{name} is missing"
        if alignment is not None:
            aligned = where.replace("isolation", "semantic_alignment")
            if alignment.query_plus_delimiter_ids != [*isolation.query_ids, evaluation.delimiter]:
                yield f"{aligned}.query_plus_delimiter_ids is not query_ids and the delimiter {evaluation.delimiter}"
            field = "base_scores_query_plus_delimiter"
            yield from _scores(f"{aligned}.{field}", getattr(alignment, field), size)
            for number, replay in enumerate(alignment.replays or ()):
                yield from _scores(f"{aligned}.replays[{number}]", replay, size)
    for semantics, visible in (evaluation.leak_visibility or {}).items():
        yield from _finite(f"leak_visibility.{semantics}.shifts", visible.shifts)
    for count, timing in evaluation.performance.items():
        if not count.isdecimal() or int(count) < 1:
            yield f"performance has {count!r}; expected numbers of items"
        if not timing.latencies_sec:
            yield f"performance.{count}.latencies_sec is empty"
        for seconds in (*timing.latencies_sec, *msgspec.structs.astuple(timing)[1:5]):
            if not (math.isfinite(seconds) and seconds > 0):
                yield f"performance.{count} holds {seconds}; expected numbers above 0"


def _scores(name: str, rows: Rows, size: tuple[int, int]) -> Iterator[str]:
    if len(rows) != size[0]:
        yield f"{name} has {len(rows)} rows; expected one for each of {size[0]} items"
    for at, row in enumerate(rows):
        if len(row) != size[1]:
            yield f"{name}[{at}] has {len(row)} scores; expected one for each of {size[1]} labels"
        yield from _finite(f"{name}[{at}]", row)


def _finite(name: str, row: Sequence[float]) -> Iterator[str]:
    for at, value in enumerate(row):
        if not math.isfinite(value):
            yield f"{name}[{at}] is {value}; expected a finite number"
