"""``multiitem load``: a running server under load."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pytest_multiitem.commands import options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.bench.load import Progress
    from pytest_multiitem.progress import ProgressBar

Number = TypeVar("Number", int, float)
_INFO_TIMEOUT = 10.0  # seconds
#: Different requests that are made: answers that change places under way would not show among equal ones.
_FEWEST, _MOST = 4, 16
_DEFAULT_DELIMITER = f"default: what the server says, else {options.DEFAULTS.delimiter}"


def load(
    url: options.Url,
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
            metavar="FILE",
            help="Your own requests, sent in turn: JSON lines, or a canonical workload (default: requests made of the "
            "options below).",
        ),
    ] = None,
    workload_sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Requests drawn of them, by the seed (default: all)."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="What makes token ids of text (default: the served model's, where it lies here)."
        ),
    ] = None,
    query_tokens: options.QueryTokens = options.DEFAULTS.bench_query_tokens,
    num_items: Annotated[int, typer.Option(min=1, help="Items.")] = options.DEFAULTS.bench_items,
    item_tokens: options.ItemTokens = options.DEFAULTS.item_tokens,
    labels: options.LabelsIfGiven = None,
    delimiter: Annotated[
        int | None, typer.Option(min=0, help=f"Delimiter token id, kept out of the content ({_DEFAULT_DELIMITER}).")
    ] = None,
    client_chunk_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Items of one HTTP request (default: all).")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the arrivals, and of the requests that are made.")
    ] = options.DEFAULTS.seed,
    vocab_size: Annotated[
        int | None, typer.Option(min=2, help="Token ids to draw from (default: what the server says, else 30000).")
    ] = None,
    request_timeout: options.Timeout = options.DEFAULTS.request_timeout,
    output_json: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the measurement is written.")] = None,
    api_key_env: options.ApiKeyEnv = options.DEFAULTS.api_key_env,
    ca_file: options.CaFile = None,
) -> None:
    """Measure a running server under load: throughput, latency and goodput by concurrency and by arrival rate.

    Exit status 1: a level in which no request succeeded, or scores that are wrong.
    """
    # Imported when it runs: the command line's own help needs no numpy and no HTTP client.
    from pytest_multiitem.bench.load import LoadShape, measure_load
    from pytest_multiitem.bench.load_records import Level
    from pytest_multiitem.comparison import workload as canonical
    from pytest_multiitem.comparison.measuring.rows import chunked
    from pytest_multiitem.comparison.own_requests import canonical_of
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.reports.html.chapters import write_beside
    from pytest_multiitem.reports.load import HEADER, remarks, table
    from pytest_multiitem.results.store import write_record
    from pytest_multiitem.targets.attach import attach, base_url, client_of, settings_of
    from pytest_multiitem.traffic.loading import fitted
    from pytest_multiitem.transport.address import api_key

    address = base_url(url)
    shape = LoadShape(
        concurrency=_numbers("--concurrency", concurrency, int),
        rates=_numbers("--rates", rates, float),
        duration=duration,
        objective_ms=latency_objective_ms,
        seed=seed,
        timeout=request_timeout,
    )
    if output_json is not None:
        check_writable(output_json)
    own = {
        "delimiter": delimiter, "vocab_size": vocab_size, "api_key_env": api_key_env, "ca_file": ca_file, "seed": seed,
        "workload": None if workload is None else options.parse_value("--workload", "workload", str(workload)),
        "workload_sample": workload_sample, "tokenizer": tokenizer,
        "labels": None if labels is None else options.parse_value("--labels", "labels", labels),
    }  # fmt: skip
    given = settings_of({name: (f"--{name.replace('_', '-')}", value) for name, value in own.items()})
    settings = fitted(given, starts_servers=False)
    with client_of(address, settings, timeout=min(request_timeout, _INFO_TIMEOUT)) as client:
        target = attach(None, client, settings, None)
        settings = replace(settings, delimiter=target.delimiter)
        drawn = canonical_of(settings, served=target.model, vocab_size=target.vocab_size)
        if drawn is not None and drawn.source is not None:
            work = drawn
            say(f"requests: {drawn.source.words}")
        else:
            work = canonical.generate(
                query_tokens=query_tokens,
                num_items=num_items,
                item_tokens=item_tokens,
                labels=settings.labels,
                delimiter=target.delimiter,
                seed=seed,
                vocab_size=target.vocab_size,
                num_requests=min(max(_FEWEST, *shape.concurrency), _MOST),
            )
    requests = [
        prepared
        for request in work.requests
        for prepared in chunked([request], client_chunk_size or max(1, len(request.items_token_ids)))[0]
    ]
    finished: list[Level] = []
    try:
        with ProgressBar(redraws_per_second=2) as bar:  # drawing takes time from the generator
            bar.set_total(duration * (len({*shape.concurrency}) + len({*shape.rates})))
            report = measure_load(
                address, requests, shape, api_key=api_key(api_key_env), ca_file=ca_file, dtype=target.dtype,
                progress=_progress(bar, duration), finished=finished,
            )  # fmt: skip
    except KeyboardInterrupt:
        for line in terminal_table(HEADER, table(finished)):
            say(line)
        say("interrupted: nothing is written", err=True)
        raise
    report.server_info = dict(target.info) or None
    for line in [*terminal_table(HEADER, table(report.levels)), *remarks(report)]:
        say(line)
    if output_json is not None:
        write_record(output_json, report)
        say(f"wrote {output_json}, {write_beside(output_json, report)}")
    barren = [level.label for level in report.levels if not level.successful]
    if barren:
        say(f"multiitem: {address}: no request succeeded at {', '.join(barren)}", err=True)
    problem = None if report.scores is None else report.scores.problem
    if report.wrong_answers:
        problem = f"answers with wrong scores: {report.wrong_answers}"
    if problem is not None:
        say(f"multiitem: {address}: {problem}", err=True)
    if barren or problem is not None:
        raise typer.Exit(1)


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


def _progress(bar: ProgressBar, duration: float) -> Progress:
    """Moves a progress bar through levels of ``duration`` seconds each."""
    begun = 0

    def report(level: str, seconds: float) -> None:
        nonlocal begun
        begun += seconds == 0
        bar.describe(level)
        bar.set_completed((begun - 1) * duration + min(seconds, duration))

    return report
