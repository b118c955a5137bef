"""``multiitem evaluate``, ``combine`` and ``check``: two endpoints measured, their results joined, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pytest_multiitem.commands.options import DEFAULTS, AllowInconclusive, Url, parse_value, with_options
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.settings import OPTION_OF


class Mode(StrEnum):
    """How requests are sent."""

    MULTI = "multi"
    SERIAL = "serial"


def _option(setting: str, help: str | None = None, *, default: str | None = None) -> Any:
    """The command's option for a setting of a run: same name, same values, same default."""
    option = OPTION_OF[setting]
    words = f"{help or option.help} (default: {default or DEFAULTS.shown(setting)})"
    return typer.Option(metavar=option.metavar, help=words)


_SERVER_SAYS = "what the server says"
_OPTIONS = {
    "labels": _option("labels"),
    "delimiter": _option("delimiter", default=f"{_SERVER_SAYS}, else {DEFAULTS.delimiter}"),
    "semantics": _option("semantics", "what the multi-item server computes", default=_SERVER_SAYS),
    "seed": _option("seed", "seed of the requests"),
    "query_tokens": _option("query_tokens", "query length, timed"),
    "item_tokens": _option("item_tokens", "item length, timed"),
    "items": _option("items", "item counts N that are timed"),
    "timed_runs": _option("bench_timed_runs"),
    "warmup_runs": _option("bench_warmup_runs"),
    "model": typer.Option(metavar="NAME", help=f"Name of the model (default: {_SERVER_SAYS})."),
    "backend": typer.Option(metavar="NAME", help=f"What serves: jax, pytorch, … (default: {_SERVER_SAYS})."),
    "engine": typer.Option(metavar="NAME", help="Engine that serves, embedded, sglang or sgl-jax: read its own words."),
    "vocab_size": _option("vocab_size", "token ids to draw from", default=f"{_SERVER_SAYS}, else 30000"),
    "workload": _option("workload", default="built-in requests"),
    "timeout": _option("request_timeout"),
    "api_key_env": _option("api_key_env", "environment variable with the server's API key"),
    "ca_file": _option("ca_file", default="the usual ones"),
}
#: The settings of those that have another name.
_SETTINGS = {"timed_runs": "bench_timed_runs", "warmup_runs": "bench_warmup_runs", "timeout": "request_timeout"}


@partial(with_options, options=_OPTIONS)
def evaluate(
    mode: Annotated[Mode, typer.Option(help="multi: all items in one request. serial: one-item requests.")],
    url: Url,
    output_json: Annotated[Path, typer.Option(help="Where the evaluation is written.")],
    *,
    given: Mapping[str, str | None],
) -> None:
    """Measure one running endpoint and write its evaluation file.

    What the server says of itself counts; an option that says otherwise is an error. Use the same options for both
    modes. Exit status 1 where the server failed, or a score is wrong: what was measured is kept.
    """
    from pytest_multiitem.adapters.base import known_backends
    from pytest_multiitem.evaluation import run
    from pytest_multiitem.targets.attach import settings_of

    backend = given["backend"]
    if backend is not None:
        backends = known_backends()
        if backend not in backends:
            hint = did_you_mean(backend, backends)
            raise UsageError(f"--backend {backend!r} is not valid: expected one of {', '.join(backends)}{hint}")
    values = {}
    for name, text in given.items():
        flag, setting = "--" + name.replace("_", "-"), _SETTINGS.get(name, name)
        values[setting] = flag, None if text is None else parse_value(flag, setting, text)
    settings = settings_of(values)
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
    if evaluation.score_problem is not None:
        typer.echo(f"multiitem: {url}: {' '.join(evaluation.score_problem.split())}", err=True)
        raise typer.Exit(1)


def combine(
    multi: Annotated[Path, typer.Option(help="Evaluation of the multi-item server.")],
    serial: Annotated[Path, typer.Option(help="Evaluation of the serial server.")],
    output_json: Annotated[Path, typer.Option(help="Where the combined results are written.")],
    torch_serial: Annotated[
        Path | None, typer.Option(help="Evaluation of a serial server that runs PyTorch: the torch reference.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compute the torch reference with transformers: directory or hub id."),
    ] = None,
) -> None:
    """Join the evaluations of a multi-item and a serial server, and compare with a torch reference."""
    from pytest_multiitem.evaluation import combine as joining
    from pytest_multiitem.evaluation import consistency, records, validity
    from pytest_multiitem.results.store import write_record

    if torch_serial is not None and reference is not None:
        raise UsageError("--torch-serial and --reference are two ways to one torch reference; give one of them")
    records.check_writable(output_json)
    ours, theirs = consistency.open_side(multi, "multi"), consistency.open_side(serial, "serial")
    validity.check_same_requests(ours, theirs)
    torch = None
    if torch_serial is not None or reference is not None:
        from pytest_multiitem.evaluation import reference as references

        if torch_serial is not None:
            side = consistency.open_side(torch_serial, "serial")
            validity.check_same_requests(theirs, side, timed=False)
            torch = references.from_evaluation(side)
        elif reference is not None:
            torch = references.from_transformers(reference, theirs)
    write_record(output_json, joining.combine(ours, theirs, torch))
    for side in (ours, theirs):
        if side.evaluation.failure is not None:
            typer.echo(f"multiitem: {side.path} ended early; gates that need the rest will fail", err=True)
    typer.echo(f"wrote {output_json}")


def check(
    combined: Annotated[list[Path], typer.Argument(help="Combined results; several files are laid together.")],
    allow_inconclusive: AllowInconclusive = False,
    require: Annotated[
        str | None, typer.Option(metavar="GATE,…", help="Gates for which NOT_RUN fails, or all.")
    ] = None,
) -> None:
    """Judge the five release gates from combined results.

    Exit status 0: every measured gate passes. 1: one is FAIL or INCONCLUSIVE, or nothing was measured. 2: the file
    cannot be used.
    """
    from pytest_multiitem.evaluation import check as judging
    from pytest_multiitem.evaluation import records
    from pytest_multiitem.reports.evaluation import reported, table

    required = _required(require, [gate.name for gate in judging.RELEASE_GATES])
    content = records.read_combined(combined)
    verdicts = judging.judge(content)
    for line in table(verdicts):
        typer.echo(line)
    for line in reported(content):
        typer.echo(f"not gated: {line}")
    status = judging.exit_status(verdicts, allow_inconclusive=allow_inconclusive, required=required)
    raise typer.Exit(status)


def _required(text: str | None, known: list[str]) -> list[str]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return known
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known)
            raise UsageError(f"--require {word!r} is no release gate; expected {', '.join(known)} or all{hint}")
    return words
