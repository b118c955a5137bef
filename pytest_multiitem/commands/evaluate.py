"""``multiitem evaluate``: one running endpoint, measured."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pytest_multiitem.commands.options import DEFAULTS, parse_value
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.settings import OPTION_OF


class Mode(StrEnum):
    """How the endpoint is asked."""

    MULTI = "multi"
    SERIAL = "serial"


def _option(setting: str, help: str | None = None, *, default: str | None = None) -> Any:
    """The command's option for a setting of a run: same name, same values, same default."""
    option = OPTION_OF[setting]
    words = f"{help or option.help} (default: {default or DEFAULTS.shown(setting)})"
    return typer.Option(metavar=option.metavar, help=words)


def _given(flag: str, setting: str, text: str | None) -> tuple[str, Any]:
    """The flag, and what was given by it: None where the user said nothing. Raises UsageError."""
    return flag, None if text is None else parse_value(flag, setting, text)


def evaluate(
    mode: Annotated[Mode, typer.Option(help="multi: all items in one request. serial: one-item requests.")],
    url: Annotated[str, typer.Option(help="Address of the running server.")],
    output_json: Annotated[Path, typer.Option(help="Where the evaluation is written.")],
    labels: Annotated[str | None, _option("labels")] = None,
    delimiter: Annotated[
        str | None, _option("delimiter", default=f"what the server says, else {DEFAULTS.delimiter}")
    ] = None,
    semantics: Annotated[
        str | None, _option("semantics", "what the multi-item server computes", default="what the server says")
    ] = None,
    seed: Annotated[str | None, _option("seed", "seed of the requests")] = None,
    query_tokens: Annotated[str | None, _option("query_tokens", "query length, timed")] = None,
    item_tokens: Annotated[str | None, _option("item_tokens", "item length, timed")] = None,
    items: Annotated[str | None, _option("items", "item counts N that are timed")] = None,
    timed_runs: Annotated[str | None, _option("bench_timed_runs")] = None,
    warmup_runs: Annotated[str | None, _option("bench_warmup_runs")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model (default: what the server says).")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="What serves: jax, pytorch, … (default: what the server says).")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Engine that serves, embedded, sglang or sgl-jax: read its own words."),
    ] = None,
    vocab_size: Annotated[
        str | None, _option("vocab_size", "token ids to draw from", default="what the server says, else 30000")
    ] = None,
    workload: Annotated[str | None, _option("workload", default="built-in requests")] = None,
    timeout: Annotated[str | None, _option("request_timeout")] = None,
    api_key_env: Annotated[str | None, _option("api_key_env", "environment variable with the server's API key")] = None,
    ca_file: Annotated[str | None, _option("ca_file", default="the usual ones")] = None,
) -> None:
    """Measure one running endpoint and write its evaluation file.

    What the server says of itself counts; an option that says otherwise is an error. Use the same options for both
    modes. Exit status 1 where the server failed: what was measured is kept.
    """
    from pytest_multiitem.adapters.base import known_backends
    from pytest_multiitem.evaluation import run
    from pytest_multiitem.targets.attach import settings_of

    if backend is not None:
        backends = known_backends()
        if backend not in backends:
            hint = did_you_mean(backend, backends)
            raise UsageError(f"--backend {backend!r} is not valid: expected one of {', '.join(backends)}{hint}")
    settings = settings_of(
        {
            "labels": _given("--labels", "labels", labels),
            "delimiter": _given("--delimiter", "delimiter", delimiter),
            "semantics": _given("--semantics", "semantics", semantics),
            "seed": _given("--seed", "seed", seed),
            "query_tokens": _given("--query-tokens", "query_tokens", query_tokens),
            "item_tokens": _given("--item-tokens", "item_tokens", item_tokens),
            "items": _given("--items", "items", items),
            "bench_timed_runs": _given("--timed-runs", "bench_timed_runs", timed_runs),
            "bench_warmup_runs": _given("--warmup-runs", "bench_warmup_runs", warmup_runs),
            "model": ("--model", model),
            "backend": ("--backend", None if backend is None else (backend,)),
            "engine": ("--engine", engine),
            "vocab_size": _given("--vocab-size", "vocab_size", vocab_size),
            "workload": _given("--workload", "workload", workload),
            "request_timeout": _given("--timeout", "request_timeout", timeout),
            "api_key_env": _given("--api-key-env", "api_key_env", api_key_env),
            "ca_file": _given("--ca-file", "ca_file", ca_file),
        }
    )
    evaluation = run.evaluate(
        settings,
        mode=mode.value,
        url=url,
        output=output_json,
        say=lambda text: typer.echo(f"{mode.value}: {text}", err=True),
    )
    failure = evaluation.failure
    if failure is not None:
        typer.echo(
            f"multiitem: {url} failed at {failure.stage}: {failure.kind}: {' '.join(failure.message.split())}; "
            f"what was measured is in {output_json}",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"wrote {output_json}")
