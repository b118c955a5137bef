"""ScoreMatrix → MeasuredSide: one row a client chunk size, each with what keeps it from winning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_multiitem.comparison.decision import correctness, guardrail
from pytest_multiitem.comparison.decision.guardrail import Candidate
from pytest_multiitem.comparison.records import Agreement, Check, Row, ScoreMatrix, Winner
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import Verdict


@dataclass(frozen=True, eq=False)
class MeasuredSide:
    """One side in one view. ``rows``: by client chunk size, the confirmed one where there is one.

    ``own``: each row's agreement with the side's own reference; of a swept and a confirmed row, the one that is farther
    from it. ``moved``: where the swept and the confirmed row do not score alike. ``contradictions``: where a row does
    not score like most of the side's other rows; where nothing else tells which is right, none of them wins.
    """

    matrix: ScoreMatrix
    path: Path | None
    rows: Mapping[int, Row]
    confirmed: frozenset[int]
    own: Mapping[int, Agreement | None]
    moved: Mapping[int, str]
    contradictions: Mapping[int, str]

    @property
    def backend(self) -> str:
        return self.matrix.backend

    @property
    def view(self) -> str:
        return self.matrix.evaluation_view

    @property
    def label(self) -> str:
        """For people: which side and view this is."""
        return f"{self.backend} {self.view}"

    @property
    def named(self) -> str:
        """For messages: the file, or which side it is where there is none."""
        return self.label if self.path is None else f"{self.path} ({self.label})"

    def own_checks(self, size: int) -> list[Check]:
        """A row against the side's own reference."""
        return correctness.own_reference_checks(self.matrix, self.own[size])

    def worst_own(self) -> tuple[Agreement | None, list[Check]]:
        """The row that is farthest from the own reference. Where that was not measured, INCONCLUSIVE checks; nothing
        where the matrix says why it could not be."""
        measured = {size: agreement for size, agreement in self.own.items() if agreement is not None}
        if not measured:
            reference = self.matrix.own_reference
            is_explained = reference is not None and reference.reason is not None
            return None, [] if is_explained else correctness.own_reference_checks(self.matrix, None)
        size = max(measured, key=lambda size: correctness.distance(measured[size]))
        return measured[size], self.own_checks(size)

    def why_not(self, size: int) -> str | None:
        """What keeps a row from winning even on its own side; None where nothing does."""
        problem = self._problem(size)
        if problem is None and size not in self.confirmed and any(self._problem(s) is None for s in self.confirmed):
            return "it was swept only, and the confirmed rows decide"
        return problem

    def _problem(self, size: int) -> str | None:
        problem = guardrail.why_not(self.rows[size]) or self.moved.get(size) or self._under_load(size)
        if problem is not None or self.own[size] is None:
            return problem
        failed = [check.reason for check in self.own_checks(size) if check.verdict == Verdict.FAIL]
        return f"it differs from its own reference: {failed[0].removeprefix(f'{self.backend}: ')}" if failed else None

    def _under_load(self, size: int) -> str | None:
        """What a measurement under load, at this chunk size, says of the scores."""
        sizes = (self.matrix.load or {}).get("items_per_request") or [0]
        return correctness.wrong_under_load(self.matrix) if max(sizes) == size else None

    def is_sound(self, size: int) -> bool:
        """Whether nothing is against a row on its own side; another one may have been confirmed instead."""
        return self._problem(size) is None

    def candidates(self, but: Iterable[int] = ()) -> list[Candidate[MeasuredSide]]:
        """The rows that may win on their own side, without the chunk sizes in ``but``."""
        excluded = set(but)
        rows = [row for size, row in self.rows.items() if size not in excluded and self.why_not(size) is None]
        return [candidate for row in rows if (candidate := guardrail.candidate_of(row, self)) is not None]

    def winner(self, size: int) -> Winner:
        """A row as a winner."""
        row, matrix = self.rows[size], self.matrix
        attested = row.mask_attested if row.mask_attested not in (None, "unattested") else None
        assert row.throughput_items_sec is not None  # it could not have won
        return Winner(
            backend=self.backend,
            view=self.view,
            client_chunk_size=size,
            throughput_items_sec=row.throughput_items_sec,
            p50_ms=row.p50_total_e2e_ms,
            p95_ms=row.p95_total_e2e_ms,
            engine=matrix.engine,
            mask=attested or matrix.mask_requested,
            items_per_usd=row.items_per_usd,
        )


def measured_side(path: Path | None, matrix: ScoreMatrix) -> MeasuredSide:
    """A matrix, ready to be compared. The portable view of another tool is that of its sweep, as the public scripts
    have it. Raises UsageError where it holds a chunk size twice."""
    swept, confirmed = _by_size(path, matrix, matrix.results), _by_size(path, matrix, matrix.confirm_results)
    if matrix.package_version is None and matrix.evaluation_view == "portable":
        confirmed = {}
    rows = dict(sorted({**swept, **{size: _whole(row, swept.get(size)) for size, row in confirmed.items()}}.items()))
    reference = matrix.own_reference
    own: dict[int, Agreement | None] = {}
    for size, row in rows.items():
        each = [row, *([swept[size]] if size in swept and size in confirmed else [])]
        agreements = [correctness.own_reference_agreement(one, reference) for one in each] if reference else []
        own[size] = max(filter(None, agreements), key=correctness.distance, default=None)
    moved = {
        size: f"its scores moved by {away:.3g} from the sweep to the confirmation"
        for size, row in confirmed.items()
        if size in swept and (away := correctness.apart(row, swept[size], matrix.dtype)) is not None
    }
    contradictions = correctness.contradictions([*matrix.results, *matrix.confirm_results], matrix.dtype)
    return MeasuredSide(matrix, path, rows, frozenset(confirmed), own, moved, contradictions)


def _by_size(path: Path | None, matrix: ScoreMatrix, rows: Iterable[Row]) -> dict[int, Row]:
    rows = list(rows)
    twice = [size for size, count in Counter(row.client_chunk_size for row in rows).items() if count > 1]
    if twice:
        where = path or f"the matrix of {matrix.backend} {matrix.evaluation_view}"
        raise UsageError(f"{where} holds client chunk size {twice[0]} more than once; expected one row a size")
    return {row.client_chunk_size: row for row in rows}


def _whole(confirmed: Row, swept: Row | None) -> Row:
    """A confirmed row; where it was written without scores, with those of its sweep."""
    if confirmed.reference_scores or swept is None or not swept.reference_scores:
        return confirmed
    return msgspec.structs.replace(
        confirmed,
        reference_scores=swept.reference_scores,
        noise_floor=swept.noise_floor,
        score_spread=swept.score_spread,
    )
