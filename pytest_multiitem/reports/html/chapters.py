"""From a record to its chapter. A new kind of file becomes part of a page with a line in `_CHAPTERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_multiitem.bench.load_records import LoadReport
from pytest_multiitem.comparison.records import Comparison, PairRecord, ScoreMatrix
from pytest_multiitem.evaluation.records import Combined, Evaluation
from pytest_multiitem.models.records import ModelMatrix
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.reports.html import answer, comparison, evaluation, history, load, models, power, run
from pytest_multiitem.reports.html.page import Chapter, page
from pytest_multiitem.results.answer import Answer
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import write_atomically

_CHAPTERS: Mapping[type, Callable[[Any], Chapter]] = {
    Answer: answer.chapter,
    Matrix: run.chapter,
    Comparison: comparison.chapter,
    ScoreMatrix: comparison.matrix_chapter,
    PairRecord: comparison.pair_chapter,
    KillMatrix: power.chapter,
    LoadReport: load.chapter,
    ModelMatrix: models.chapter,
    Evaluation: evaluation.chapter,
    Combined: evaluation.combined_chapter,
}


def has_chapter(kind: type) -> bool:
    """Whether records of this kind can stand on a page."""
    return kind in _CHAPTERS


def chapter_of(record: object, beside: Sequence[object] = ()) -> Chapter:
    """A record as a chapter. ``beside``: records that belong to it: the matrices of a comparison; the run of an answer;
    of a run, what its options measured beyond the gates, which becomes part of it."""
    if isinstance(record, Comparison):
        return comparison.chapter(record, [each for each in beside if isinstance(each, ScoreMatrix)])
    if isinstance(record, Answer):
        return answer.chapter(record, next((each for each in beside if isinstance(each, Matrix)), None))
    made = _CHAPTERS[type(record)](record)
    for each in beside:
        if isinstance(each, Comparison):
            of = [matrix for matrix in beside if isinstance(matrix, ScoreMatrix)]
            made.sections[2:2] = comparison.sections(each, of)
            made.said = type(made.said)(made.said.light, made.said.word, made.said.headline,
                                        (*made.said.sentences, *([each.summary] if each.summary else [])))  # fmt: skip
    return made


def write_beside(path: Path, record: object) -> Path:
    """Write the page of a record beside its file, as ``.html``; gives its path. Raises StorageError."""
    written = path.with_suffix(".html")
    write_atomically(written, page_of([record]).encode())
    return written


def page_of(
    records: Sequence[object], beside: Mapping[int, Sequence[object]] | None = None, title: str | None = None
) -> str:
    """One page of all records, in their order; several runs also as a history. ``beside``: by the place of a record,
    what belongs to it."""
    chapters = [chapter_of(record, (beside or {}).get(at, ())) for at, record in enumerate(records)]
    runs = [record for record in records if isinstance(record, Matrix)]
    if len(runs) > 1:
        chapters[0].sections.insert(0, history.section(runs))
    return page(title or "Multi-item scoring: report", chapters)
