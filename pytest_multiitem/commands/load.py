"""``multiitem load``; `cli` registers it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.table import OPTIONS

if TYPE_CHECKING:
    from pytest_multiitem.bench.load import LoadReport, Progress
    from pytest_multiitem.progress import ProgressBar

Number = TypeVar("Number", int, float)
_OPTIONS = {option.name: option for option in OPTIONS}
_DEFAULT = {option.name: option.default for option in OPTIONS}
_INFO_TIMEOUT = 10.0  # seconds
_HEADER = (
    "load", "requests", "ok", "errors", "incomplete", "p50 ms", "p95 ms", "mean ms", "items/s", "goodput",
    "in time", "late ms", "saturated",
)  # fmt: skip


def load(
    url: Annotated[str, typer.Option(help="Address of the running server.")],
    concurrency: Annotated[
        str, typer.Option(metavar="N,…", help="Closed loop: how many senders wait for their answers; empty: none.")
    ] = "1,2,4",
    rates: Annotated[
        str, typer.Option(metavar="R,…", help="Open loop: requests per second that arrive at random; empty: none.")
    ] = "",
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="How long each level lasts.")] = 10.0,
    latency_objective_ms: Annotated[
        float, typer.Option(metavar="MS", help="Goodput counts what is answered within this time.")
    ] = 500.0,
    workload: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A canonical workload, sent in turn (default: one made of the options below)."
        ),
    ] = None,
    query_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the query.")] = _DEFAULT["bench_query_tokens"],
    num_items: Annotated[int, typer.Option(min=1, help="Items.")] = _DEFAULT["bench_items"],
    item_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an item.")] = _DEFAULT["item_tokens"],
    labels: Annotated[str, typer.Option(metavar="ID,…", help="Label token ids.")] = ",".join(
        map(str, _DEFAULT["labels"])
    ),
    delimiter: Annotated[int, typer.Option(min=0, help="Delimiter token id, kept out of the content.")] = _DEFAULT[
        "delimiter"
    ],
    client_chunk_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Items of one HTTP request (default: all).")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the arrivals, and of the requests that are made.")
    ] = _DEFAULT["seed"],
    vocab_size: Annotated[
        int | None, typer.Option(min=2, help="Token ids to draw from (default: what the server says, else 30000).")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time one request may take.")] = _DEFAULT[
        "request_timeout"
    ],
    output_json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the measurement is written.")] = None,
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the server's API key.")
    ] = _DEFAULT["api_key_env"],
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate authorities to trust (default: the usual ones).")
    ] = None,
) -> None:
    """Measure a running server under load: throughput, latency and goodput by concurrency and by arrival rate.

    Exit status 1: a level in which no request succeeded.
    """
    from pytest_multiitem.bench.load import measure_load
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison.measuring.rows import chunked
    from pytest_multiitem.comparison.records import Workload
    from pytest_multiitem.comparison.workload import generate
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.redaction import redacted
    from pytest_multiitem.results.store import write_atomically
    from pytest_multiitem.targets.endpoint import base_url
    from pytest_multiitem.transport.client import ScoreClient

    address, api_key = base_url(url), os.environ.get(api_key_env) or None
    senders, arrivals = _numbers("--concurrency", concurrency, int), _numbers("--rates", rates, float)
    if output_json is not None:
        check_writable(output_json)
    with ScoreClient(address, timeout=min(timeout, _INFO_TIMEOUT), api_key=api_key, ca_file=ca_file) as client:
        info = client.server_info() or {}
    if workload is not None:
        work = artefacts.read(workload, Workload).record
    else:
        told = info.get("vocab_size")
        work = generate(
            query_tokens=query_tokens,
            num_items=num_items,
            item_tokens=item_tokens,
            labels=_labels(labels),
            delimiter=delimiter,
            seed=seed,
            vocab_size=vocab_size or (told if isinstance(told, int) else None),
        )
    requests = [
        prepared
        for request in work.requests
        for prepared in chunked(request, client_chunk_size or max(1, len(request.items_token_ids)))[0]
    ]
    with ProgressBar(redraws_per_second=2) as bar:  # drawing takes time from the generator
        bar.set_total(duration * (len(set(senders)) + len(set(arrivals))))
        report = measure_load(
            address,
            requests,
            concurrency=senders,
            rates=arrivals,
            duration=duration,
            objective_ms=latency_objective_ms,
            seed=seed,
            timeout=timeout,
            api_key=api_key,
            ca_file=ca_file,
            progress=_telling(bar, duration),
        )
    report.server_info = redacted(info) or None
    for line in terminal_table(_HEADER, table(report)):
        typer.echo(line)
    for line in remarks(report):
        typer.echo(line)
    if output_json is not None:
        write_atomically(output_json, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        typer.echo(f"wrote {output_json}")
    barren = [level.label for level in report.levels if not level.successful]
    if barren:
        typer.echo(f"multiitem: {address}: no request succeeded at {', '.join(barren)}", err=True)
        raise typer.Exit(1)


def table(report: LoadReport) -> list[list[str]]:
    """One row a level."""
    rows = []
    for level in report.levels:
        times = [level.latency_ms["p50"], level.latency_ms["p95"], level.mean_latency_ms]
        rows.append(
            [
                level.label,
                *map(str, (level.requests, level.successful, level.errored, level.incomplete)),
                *("-" if value is None else f"{value:.1f}" for value in times),
                f"{level.items_per_sec:.1f}",
                f"{level.goodput_items_per_sec:.1f}",
                "-" if level.share_within_objective is None else f"{level.share_within_objective:.0%}",
                "-" if level.lateness_ms_p50 is None else f"{level.lateness_ms_p50:.1f}",
                {True: "yes", False: "no", None: "-"}[level.saturated],
            ]
        )
    return rows


def remarks(report: LoadReport) -> list[str]:
    """What the table has no room for, and what it comes to."""
    lines = []
    for level in report.levels:
        if level.saturation is not None:
            lines.append(f"{level.label}: {level.saturation}")
        if level.ended_early is not None and level.ended_early != level.saturation:
            lines.append(f"{level.label}: ended {level.ended_early}")
        for kind, count in level.errors_by_kind.items():
            first = next(record.failure_message for record in level.records if record.failure_kind == kind)
            lines.append(f"{level.label}: {count} failed by {kind}; the first: {' '.join((first or '').split())}")
    found = [f"concurrency {report.saturation_concurrency}"] if report.saturation_concurrency is not None else []
    found += [f"{report.saturation_rate:g} requests/s"] if report.saturation_rate is not None else []
    goodput = f"{report.max_goodput_items_per_sec:.1f} items/s within {report.latency_objective_ms:g} ms a request"
    return [*lines, f"best goodput: {goodput}; saturated from: {', '.join(found) or 'no level that was measured'}"]


def _labels(text: str) -> tuple[int, ...]:
    try:
        labels: tuple[int, ...] = _OPTIONS["labels"].parse(text)
    except ValueError as error:
        raise UsageError(f"--labels {text!r} is not valid: {error}") from None
    return labels


def _numbers(flag: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    """The numbers above 0 of a comma-separated list, which may be empty. Raises UsageError."""
    try:
        values = [kind(word) for word in text.split(",")] if text.strip() else []
    except ValueError:
        values = [kind("0")]
    if not all(0 < value < math.inf for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{flag} {text!r} is not valid: expected a comma-separated list of {what} above 0")
    return values


def _telling(bar: ProgressBar, duration: float) -> Progress:
    """Shows levels of ``duration`` seconds each, as `measure_load` tells of them."""
    begun = 0

    def tell(what: str, seconds: float) -> None:
        nonlocal begun
        begun += seconds == 0
        bar.describe(what)
        bar.set_completed((begun - 1) * duration + min(seconds, duration))

    return tell
