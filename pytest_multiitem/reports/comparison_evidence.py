"""The sections of a final report that the matrices themselves give: stability, load, cost, machines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.records import Comparison, Row, ScoreMatrix
from pytest_multiitem.reports.blocks import Markdown, bullets, cell, code_block, escape, markdown_table, paragraphs
from pytest_multiitem.reports.comparison_tables import dollars, finite, interval, plain, winning_side
from pytest_multiitem.transport.client import FailureKind

_FIRST = (FailureKind.TIMEOUT.value, FailureKind.OOM.value)


def stability(matrices: Sequence[ScoreMatrix]) -> list[str]:
    """What failed, by backend and client chunk size; what makes times doubtful; A/A."""
    servers = _servers(matrices)
    measured = [(side, phase, row) for side, m in servers for phase, rows in _phases(m) for row in rows]
    return [_failures(measured), _doubts(measured), _self_comparisons(servers)]


def _servers(matrices: Sequence[ScoreMatrix]) -> list[tuple[str, ScoreMatrix]]:
    """The matrices by name; one that was measured once and stands in several views comes once."""
    servers: list[tuple[str, ScoreMatrix]] = []
    for matrix in matrices:
        at = next((at for at, (_, known) in enumerate(servers) if _same_rows(matrix, known)), None)
        if at is None:
            servers.append((_side(matrix), matrix))
        else:
            servers[at] = (f"{servers[at][0]}, {matrix.evaluation_view}", servers[at][1])
    return servers


def _same_rows(a: ScoreMatrix, b: ScoreMatrix) -> bool:
    rows = [*a.results, *a.confirm_results]
    measured = any(row.session is not None for row in rows)
    return a.backend == b.backend and measured and rows == [*b.results, *b.confirm_results]


def _phases(matrix: ScoreMatrix) -> Iterable[tuple[str, list[Row]]]:
    return (("sweep", matrix.results), ("confirmation", matrix.confirm_results))


def _failures(measured: Sequence[tuple[str, str, Row]]) -> str:
    kinds = dict.fromkeys([*_FIRST, *(kind for _, _, row in measured for kind in row.failure_reason_counts)])
    header = ["side", "phase", "client chunk size", "status", "successful runs", *(k.replace("_", " ") for k in kinds)]
    bad = [
        [side, phase, str(row.client_chunk_size), row.status, f"{cell(row.successful_runs)} of {cell(row.timed_runs)}",
         *(str(row.failure_reason_counts.get(kind, 0)) for kind in kinds)]
        for side, phase, row in measured
        if row.status != "ok" or any(row.failure_reason_counts.values())
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    for _, _, row in measured:
        counts.update(row.failure_reason_counts)
    failures = ", ".join(f"{counts[kind]} {kind.replace('_', ' ')}" for kind in kinds)
    partial, failed = (sum(row.status == status for _, _, row in measured) for status in ("partial_failure", "failed"))
    summary = f"{len(measured)} rows were measured: {failed} failed, {partial} failed in part. Failed runs: {failures}."
    return paragraphs(summary, markdown_table(header, bad))


def _doubts(measured: Sequence[tuple[str, str, Row]]) -> str:
    rows = [
        [side, phase, str(row.client_chunk_size), what, why, plain(row.first_run_penalty_ratio, 2)]
        for side, phase, row in measured
        for what, why in (
            ("unstable", row.unstable),
            ("recompilation", row.recompilation),
            ("executed path", row.attestation_problem),
            ("scores", row.score_problem),
        )
        if why
    ]
    header = ["side", "phase", "client chunk size", "doubt", "why", "first run over the others"]
    return markdown_table(header, rows) or "No row is marked unstable, recompiled, or run on another path."


def _self_comparisons(servers: Sequence[tuple[str, ScoreMatrix]]) -> str:
    rows = []
    for side, matrix in servers:
        pair = matrix.self_comparison
        if pair is not None:
            bounds = pair.ratio_interval_95
            says = "-" if bounds is None else "no difference" if bounds[0] <= 1 <= bounds[1] else "a difference"
            rows.append([side, str(pair.client_chunk_size), plain(pair.ratio_p50, 3), interval(bounds), says])
    header = ["A/A: a server against itself", "client chunk size", "ratio of medians", "95 % interval", "shows"]
    return markdown_table(header, rows) or "A/A: no server was compared with itself."


def load(matrices: Sequence[ScoreMatrix]) -> list[str]:
    """Overlapping requests: a level a row; nothing where none was measured."""
    header = ["side", "level", "requests", "successful", "items/s", "goodput items/s", "p50 ms", "p95 ms", "p99 ms",
              "within objective", "saturated", "errors"]  # fmt: skip
    rows, notes = [], []
    for matrix in matrices:
        measured = matrix.load if isinstance(matrix.load, dict) else {}
        levels = measured.get("levels")
        levels = [level for level in levels if isinstance(level, dict)] if isinstance(levels, list) else []
        rows += [[_side(matrix), *_level(level)] for level in levels]
        if levels and isinstance(measured.get("latency_objective_ms"), int | float):
            notes.append(f"{_side(matrix)}: latency objective {measured['latency_objective_ms']:g} ms")
    if not rows:
        return []
    note = "Latency counts from when a request was due. A percentile that too few requests support is left out."
    return [markdown_table(header, rows), bullets([note, *dict.fromkeys(notes)])]


def _level(level: Mapping[str, Any]) -> list[str]:
    senders, latency, errors = level.get("concurrency"), level.get("latency_ms"), level.get("errors_by_kind")
    latency = latency if isinstance(latency, dict) else {}
    share = finite(level.get("share_within_objective"))
    saturated = {"True": "yes", "False": "no"}.get(str(level.get("saturated")), "not known")
    return [
        f"concurrency {senders}" if senders is not None else f"{plain(level.get('offered_rate'))} requests/s",
        *(plain(level.get(name), 0) for name in ("requests", "successful")),
        *(plain(level.get(name)) for name in ("items_per_sec", "goodput_items_per_sec")),
        *(plain(latency.get(percentile)) for percentile in ("p50", "p95", "p99")),
        "-" if share is None else f"{share:.0%}",
        f"{saturated}: {level['saturation']}" if level.get("saturation") else saturated,
        ", ".join(f"{count} {kind}" for kind, count in errors.items()) if isinstance(errors, dict) and errors else "-",
    ]


def harness(matrices: Sequence[ScoreMatrix]) -> str:
    """What a request takes that nobody computes anything for; nothing where it was not measured."""

    def text(matrix: ScoreMatrix) -> str:
        measured = matrix.harness or {}
        p50 = {name: of.get("p50") for name, of in measured.items() if isinstance(of, dict)}
        facts = [
            f"{words}: {plain(value, 3)}{unit}"
            for words, value, unit in (
                ("the harness's median request to a server that computes nothing", p50.get("harness"), " ms"),
                ("the same bytes over a bare socket", p50.get("raw_socket"), " ms"),
                ("what the harness adds", measured.get("added_ms_p50"), " ms"),
                ("a plain requests.post(json=…) over the harness's", measured.get("requests_over_harness"), " times"),
            )
            if finite(value) is not None
        ]
        return bullets([*facts, str(measured["reason"])] if "reason" in measured else facts)

    return paragraphs(*(part for facts, sides in _shared(matrices, text) for part in (f"{sides}:", facts)))


def cost(comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> str:
    """What each side's best row costs; nothing where no price is known."""
    prices = {(m.backend, m.evaluation_view): m.cost_per_hour_usd for m in matrices}
    rows = []
    for view in comparison.views:
        for backend, won in view.winners_by_backend.items():
            price = prices.get((backend, view.view))
            if price is not None or won.items_per_usd is not None:
                side = winning_side(view, won)
                run = dollars(None if side is None else side.usd_per_run)
                name, size = f"{display_name(backend)} {view.view}", str(won.client_chunk_size)
                rows.append([name, size, dollars(price), run, plain(won.items_per_usd, 0)])
    header = ["best row of", "client chunk size", "an hour", "a run over all items", "items per USD"]
    return markdown_table(header, rows) or "No price an hour was given."


def workload(comparison: Comparison) -> str:
    """Which request was measured."""
    return _measured(comparison) or "The matrices do not say which workload they measured."


def matrix_workload(matrix: ScoreMatrix) -> str:
    """Which request a matrix measured."""
    return _measured(matrix) or "The matrix does not say which workload it measured."


def _measured(record: Comparison | ScoreMatrix) -> str:
    ref = record.workload_ref
    named = {"file": ref.path, "request": ref.request_id, "sha256": ref.sha256}
    facts = {name: value for name, value in named.items() if value is not None}
    if isinstance(record.workload, dict):
        facts |= _flat(record.workload)
    return _facts(facts)


def shape(comparison: Comparison) -> str:
    """The workload's shape in words; nothing where it is not known."""
    known = comparison.workload if isinstance(comparison.workload, dict) else {}
    words = [
        f"{known[name]} {unit}"
        for name, unit in (("query_tokens", "query tokens"), ("num_items", "items"), ("item_tokens", "tokens an item"))
        if known.get(name) is not None
    ]
    models = dict.fromkeys(str(side.model) for side in comparison.sides if side.model)
    precisions = dict.fromkeys(str(side.dtype) for side in comparison.sides if side.dtype)
    return ", ".join([*models, *precisions, *words])


def device(comparison: Comparison, backend: str, view: str) -> str:
    """What a side ran on, in a few words."""
    known = next((side.hardware for side in comparison.sides if (side.backend, side.view) == (backend, view)), None)
    if isinstance(known, dict):
        named = [str(known[name]) for name in ("device", "accelerator", "gpu", "processor") if known.get(name)]
        return ", ".join(named) or ", ".join(f"{k} {v}" for k, v in _flat(known).items()) or "-"
    return "-" if known is None else str(known)


def executed(matrices: Sequence[ScoreMatrix], backend: str, view: str) -> str:
    """The masks that a side's server has executed."""
    mine = [matrix for matrix in matrices if (matrix.backend, matrix.evaluation_view) == (backend, view)]
    masks = dict.fromkeys(row.mask_attested for matrix in mine[-1:] for _, rows in _phases(matrix) for row in rows)
    return ", ".join(mask for mask in masks if mask)


def configurations(matrices: Sequence[ScoreMatrix]) -> list[str]:
    """Machines, versions and server configurations; what several share stands once."""
    kinds: Mapping[str, Callable[[ScoreMatrix], str]] = {
        "Machine": lambda m: _facts(_flat(m.hardware)),
        "Versions": lambda m: _facts(m.versions),
        "Server configuration": lambda m: _json(m.server_config),
    }
    return [
        Markdown(f"### {kind}: {escape(named)}\n\n{text}")
        for kind, of in kinds.items()
        for text, named in _shared(matrices, of)
    ]


def _shared(matrices: Sequence[ScoreMatrix], text_of: Callable[[ScoreMatrix], str]) -> list[tuple[str, str]]:
    """Each matrix's text, with the names of those that share it."""
    texts: dict[str, list[str]] = {}
    for matrix in matrices:
        if text := text_of(matrix):
            texts.setdefault(text, []).append(_side(matrix))
    return [(text, ", ".join(named)) for text, named in texts.items()]


def _json(value: Any) -> str:
    return (
        "" if value is None else code_block(msgspec.json.format(msgspec.json.encode(value), indent=1).decode(), "json")
    )


def _facts(facts: Mapping[str, Any]) -> str:
    return bullets(f"{name}: {value}" for name, value in facts.items())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """What a nested object holds, by dotted name; empty entries left out."""
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for name, entry in value.items():
            flat |= _flat(entry, f"{prefix}.{name}" if prefix else str(name))
        return flat
    if value is None or value == [] or (isinstance(value, float) and not math.isfinite(value)):
        return {}
    return {prefix or "name": ", ".join(map(str, value)) if isinstance(value, list) else value}


def _side(matrix: ScoreMatrix) -> str:
    return f"{display_name(matrix.backend)} {matrix.evaluation_view}"
