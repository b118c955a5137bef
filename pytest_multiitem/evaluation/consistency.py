"""Whether evaluations and combined results say what follows from the scores and times that they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from pytest_multiitem.bench.figures import is_usable, of_ratio, of_times
from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation import validity
from pytest_multiitem.evaluation.combine import combine
from pytest_multiitem.evaluation.measure import KINDS
from pytest_multiitem.evaluation.records import (
    Combined,
    CombinedIsolation,
    Equivalence,
    Evaluation,
    Isolation,
    Mutation,
    Rows,
    SpeedPoint,
)
from pytest_multiitem.evaluation.reference import TorchReference, from_evaluation
from pytest_multiitem.evaluation.validity import Side, check_same_requests, problems
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.results.figures import contradictions, differs, leaves
from pytest_multiitem.transport.client import Scores

#: Where a figure stands in a file.
Path_ = tuple[str, ...]
#: What a combined file says that does not follow from the evaluations in it.
_OWN = frozenset({"schema_version", "created_at_utc", "package_version"})
_ITS = "its differences give"


def open_side(path: Path, mode: str) -> Side:
    """Read the evaluation of one side. Raises UsageError naming the field that cannot be used, or contradicts the
    scores and times in the file."""
    side = validity.open_side(path, mode)
    problem = next(of_evaluation(side.evaluation), None)
    if problem is not None:
        raise UsageError(f"{path} contradicts itself: {problem}; evaluate that side again")
    return side


def of_evaluation(evaluation: Evaluation) -> Iterator[str]:
    """What an evaluation's figures are, where its own scores and times say otherwise. Shapes must hold
    (`validity.problems`)."""
    side = Side(Path(), evaluation)
    for at, (isolation, _) in enumerate(side.cases):
        where = "isolation" if at == 0 else f"further_cases[{at - 1}].isolation"
        if isolation.base_scores is not None:
            yield from _mutations(where, isolation)
    for semantics, visible in (evaluation.leak_visibility or {}).items():
        yield from _shifts(f"leak_visibility.{semantics}", visible.shifts, visible.scores)
    for count, timing in evaluation.performance.items():
        own = evaluation.package_version is not None
        yield from of_times(f"performance.{count}.", int(count), timing.latencies_sec, timing, own=own)


def of_combined(combined: Combined) -> Iterator[tuple[Path_, str]]:
    """What combined results say that their samples do not: the path of the field, and the contradiction in words.

    The lists beside a figure are its samples; where the evaluations are in the file, all of it is joined again.
    """
    for at, value in leaves(_figures(combined)):
        if isinstance(value, float) and not math.isfinite(value):
            path = tuple(map(str, at))
            yield path, f"{_shown(path)} is {value}; expected a finite number"
    for section in ("isolation", "equivalence", "equivalence_query_plus_delimiter"):
        found = getattr(combined, section)
        if isinstance(found, CombinedIsolation):
            for kind in ("same", "changed"):
                name = f"{kind}_length_mutation"
                yield from _largest(section, f"{name}_max_abs_diff", f"{name}_unchanged_diffs", found)
        elif isinstance(found, Equivalence):
            yield from _largest(section, "max_abs_diff", "abs_diffs", found)
            if found.abs_diffs is not UNSET and found.abs_diffs and isinstance(found.mean_abs_diff, float):
                path = (section, "mean_abs_diff")
                wanted = float(np.mean(found.abs_diffs))
                for text in differs(_shown(path), found.mean_abs_diff, wanted, "the mean of abs_diffs is"):
                    yield path, text
    for count, point in {} if combined.performance is UNSET else combined.performance.items():
        for text in _point(count, point, own=combined.package_version is not UNSET):
            yield ("performance", count), text
    if combined.sources is not UNSET:
        yield from _joined_again(combined)


def _joined_again(combined: Combined) -> Iterator[tuple[Path_, str]]:
    """Where the evaluations in a file, joined again, give something else than the file says."""
    sources = combined.sources
    assert sources is not UNSET
    multi, serial = (Side(Path(name), getattr(sources, name)) for name in ("multi", "serial"))
    for side, mode in ((multi, "multi"), (serial, "serial")):
        broken = next(problems(side), None) or next(of_evaluation(side.evaluation), None)
        if side.evaluation.mode != mode:
            broken = f"mode is {side.evaluation.mode!r}; expected {mode!r}"
        if broken is not None:
            yield ("sources", mode), f"sources.{mode}: {broken}"
            return
    try:
        check_same_requests(multi, serial)
        again = combine(multi, serial, _reference(combined, serial))
    except (UsageError, ValueError, TypeError, KeyError) as error:
        yield ("sources",), f"sources cannot be joined: {' '.join(str(error).split())}"
        return
    for path, text in contradictions(_figures(combined), _figures(again), "the evaluations in the file give"):
        if path[0] not in _OWN:
            yield tuple(map(str, path)), text


def _figures(combined: Combined) -> Any:
    """All that stands in combined results, but for the evaluations, which are looked at where they are joined."""
    return msgspec.to_builtins(msgspec.structs.replace(combined, sources=UNSET))


def _reference(combined: Combined, serial: Side) -> TorchReference | None:
    """The torch reference of combined results, from its own evaluation where that is in the file. Raises UsageError
    where it is of other requests, KeyError or ValueError where it is none."""
    stated, sources = combined.torch_reference, combined.sources
    if stated is UNSET:
        return None
    if sources is not UNSET and sources.torch is not None:
        side = Side(Path(stated["file"]), sources.torch)
        if (broken := next(problems(side), None) or next(of_evaluation(side.evaluation), None)) is not None:
            raise UsageError(f"torch: {broken}")
        check_same_requests(serial, side, timed=False)
        return from_evaluation(side)
    aligned = stated["query_plus_delimiter_scores"]
    about = {k: v for k, v in stated.items() if k not in ("serial_scores", "query_plus_delimiter_scores", "floor")}
    return TorchReference(
        [np.array(scores, dtype=float) for scores in stated["serial_scores"]],
        None if aligned is None else [np.array(scores, dtype=float) for scores in aligned],
        stated["floor"],
        about,
    )


def _mutations(where: str, isolation: Isolation) -> Iterator[str]:
    """Of every mutation, and of the worst one under the final names."""
    base = np.array(isolation.base_scores)
    for number, mutation in enumerate(isolation.mutations or ()):
        yield from _mutation(f"{where}.mutations[{number}]", base, mutation)
    for field, kinds in KINDS.items():
        worst: Mutation | None = getattr(isolation, field)
        of_kind = [m.max_abs_diff_unchanged for m in isolation.mutations or () if m.mutation in kinds]
        if worst is None:
            if of_kind:
                yield f"{where}.{field} is missing, but there are {len(of_kind)} mutations of this kind"
            continue
        yield from _mutation(f"{where}.{field}", base, worst)
        if of_kind and worst.max_abs_diff_unchanged != max(of_kind):
            yield (
                f"{where}.{field} moves the other items by {worst.max_abs_diff_unchanged:.6g}; the worst of the "
                f"{len(of_kind)} mutations of this kind by {max(of_kind):.6g}"
            )


def _mutation(where: str, base: Scores, mutation: Mutation) -> Iterator[str]:
    others = np.delete(np.abs(np.array(mutation.scores) - base).max(axis=1), mutation.mutated_index)
    stated = mutation.unchanged_item_abs_diffs
    if len(stated) != len(others):
        yield f"{where}.unchanged_item_abs_diffs has {len(stated)} entries; expected {len(others)}, one an item"
        return
    for at, (mine, wanted) in enumerate(zip(stated, others.tolist(), strict=True)):
        yield from differs(f"{where}.unchanged_item_abs_diffs[{at}]", mine, wanted, "the scores give")
    if len(others):
        yield from differs(f"{where}.max_abs_diff_unchanged", mutation.max_abs_diff_unchanged, max(stated), _ITS)
        mean = float(np.mean(stated))
        yield from differs(f"{where}.mean_abs_diff_unchanged", mutation.mean_abs_diff_unchanged, mean, _ITS)


def _shifts(where: str, shifts: Sequence[float], scores: Sequence[Rows]) -> Iterator[str]:
    if len(shifts) != len(scores):
        yield f"{where} has {len(shifts)} shifts, but scores of {len(scores)} pairs"
        return
    for at, (shift, pair) in enumerate(zip(shifts, scores, strict=True)):
        if len(pair) != 2 or len(pair[0]) != len(pair[1]):
            yield f"{where}.scores[{at}]: expected two rows of the same length"
        else:
            wanted = max_abs(np.array(pair[1]) - np.array(pair[0]))
            yield from differs(f"{where}.shifts[{at}]", shift, wanted, "the scores give")


def _largest(where: str, name: str, samples: str, found: Any) -> Iterator[tuple[Path_, str]]:
    """Whether a figure is the largest of the list beside it."""
    value, each = getattr(found, name), getattr(found, samples)
    if each is UNSET or not isinstance(value, float | int):
        return
    path = (where, name)
    if not each:
        yield path, f"{_shown(path)} is {value:.6g}, but {samples} is empty"
    elif all(map(math.isfinite, each)):
        for text in differs(_shown(path), value, max(map(abs, each)), f"the largest of {samples} is"):
            yield path, text


def _point(count: str, point: SpeedPoint, *, own: bool) -> Iterator[str]:
    """Whether the figures of one N follow from its times."""
    where = f"performance.{count}."
    if not count.isdecimal() or int(count) < 1:
        yield f"{where[:-1]}: expected a number of items"
        return
    serial, multi = point.serial_latencies_sec, point.multi_latencies_sec
    if serial is not UNSET and multi is not UNSET and is_usable(serial) and is_usable(multi):
        yield from of_ratio(where, serial, multi, point, paired=False)
    for side, seconds in (("multi_", multi), ("serial_", serial)):
        if seconds is not UNSET:
            yield from of_times(where, int(count), seconds, point, prefix=side, own=own)


def _shown(path: Path_) -> str:
    return ".".join(path)
