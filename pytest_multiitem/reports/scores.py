"""The tables of saved scores, and of a run's against them; terminal, Markdown report and command show these."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_multiitem.adapters.base import model_name
from pytest_multiitem.baselines.golden import GoldenScores
from pytest_multiitem.reports.blocks import Rows, cell
from pytest_multiitem.results.details import AgainstScores, ScoreVerdict
from pytest_multiitem.results.records import GateRecord


def scores(records: Iterable[GateRecord]) -> Rows:
    """Header and rows: every saved request, how many of its items moved, how far, and the worst of them."""
    header = ["saved request", "moved", "largest", "limit", "noise floor", "worst item: saved, now", "verdict", ""]
    details = [record.details for record in records if isinstance(record.details, AgainstScores)]
    return header, [_row(request) for each in details for request in each.requests]


def _row(request: ScoreVerdict) -> list[str]:
    worst = request.worst[0] if request.worst else None
    shown = "-" if worst is None else f"{worst.index}: {worst.was[0]:.6g}, {worst.now[0]:.6g}"
    figures = [_figure(value) for value in (request.largest, request.limit, request.noise_floor)]
    why = request.reason if request.largest is None or request.doubt is not None else ""
    return [request.key, f"{request.moved} of {request.items}", *figures, shown, request.verdict.value, why]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def saved_servers(saved: GoldenScores) -> Rows:
    """Header and rows: who has scored."""
    header = ["server", "engine", "version", "model", "precision", "executed", "semantics", "delimiter"]
    rows = [
        [name, *(cell(value) for value in (each.engine, each.version, each.model and model_name(each.model),
         each.dtype, each.mask_attested, each.semantics, each.delimiter))]
        for name, each in saved.servers.items()
    ]  # fmt: skip
    return header, rows


def saved_requests(saved: GoldenScores) -> Rows:
    """Header and rows: what was scored."""
    header = ["request", "items", "labels", "noise floor", "sha256"]
    rows = [
        [each.key, str(len(each.scores)), str(len(each.labels)), _figure(each.noise_floor), each.request_sha256[:12]]
        for each in saved.requests
    ]
    return header, rows
