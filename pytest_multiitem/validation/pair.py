"""Whether the figures and the verdict of an A/B pair follow from its runs and scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pytest_multiitem.comparison.decision.pair import pair_of
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import PairRecord, Row
from pytest_multiitem.results.figures import contradictions
from pytest_multiitem.validation.score_matrix import Measured, row_problems


def summary(pair: PairRecord) -> str:
    """What it holds, in a few words."""
    return f"{' against '.join(pair.rows)}: {pair.verdict}"


def problems(artefact: Artefact[PairRecord]) -> list[str]:
    """What is wrong with an A/B pair whose schema holds."""
    pair = artefact.record
    if list(pair.rows) != list(pair.arms) or len(pair.arms) != 2:
        return [f"the arms are {', '.join(pair.arms)}, but there are rows of {', '.join(pair.rows)}; expected A and B"]
    items = {len(row.reference_scores) for row in pair.rows.values() if row.reference_scores}
    if len(items) > 1:
        return [f"the arms scored {' and '.join(map(str, sorted(items)))} items; expected the same"]
    labels = None if pair.labels is None else len(pair.labels)
    measured = Measured(next(iter(items), None), labels, softmax=True)
    found = [f"arm {name}: {text}" for name, row in pair.rows.items() for text in _row(row, name, artefact, measured)]
    return found or [*_recomputed(pair)]  # figures of what are no runs are none


def _row(row: Row, name: str, artefact: Artefact[PairRecord], measured: Measured) -> Iterator[str]:
    yield from row_problems(row, artefact.content["rows"][name], measured)
    if any(run.ok and not run.call_latencies_ms for run in row.run_records):
        yield "a successful run has no call_latencies_ms"
    if row.successful_runs and not row.reference_scores:
        yield "its runs succeeded, but it has no reference_scores"


def _recomputed(pair: PairRecord) -> Iterator[str]:
    wanted = _decision(pair_of(pair.arms, pair.rows, pair.labels))
    for _, text in contradictions(_decision(pair), wanted, "the rows give"):
        yield text


def _decision(pair: PairRecord) -> dict[str, Any]:
    """What follows from the rows. Why nothing is compared is said in words."""
    content: dict[str, Any] = msgspec.to_builtins(pair)
    for stated in ("arms", "rows", "served", "requests"):
        del content[stated]
    return content | {"verdict": pair.verdict.partition(":")[0]}
