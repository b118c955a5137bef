"""The commands of the two-step evaluation; `cli` registers them. Measuring is imported by the command that does it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.table import OPTIONS

_OPTIONS = {option.name: option for option in OPTIONS}


class Mode(StrEnum):
    """How the endpoint is asked."""

    MULTI = "multi"
    SERIAL = "serial"


class ServingBackend(StrEnum):
    """What serves; recorded, because one gate compares JAX with PyTorch."""

    JAX = "jax"
    PYTORCH = "pytorch"


def _shown(name: str) -> str:
    default = _OPTIONS[name].default
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _option(setting: str, help: str | None = None, *, default: str | None = None) -> Any:
    """The command's option for a setting of a run: same name, same values, same default."""
    option = _OPTIONS[setting]
    words = f"{help or option.help} (default: {default or _shown(setting)})"
    return typer.Option(metavar=option.metavar, help=words)


def _value(flag: str, setting: str, text: str | None) -> tuple[str, Any]:
    """The flag and what was given by it, read as the setting of a run is read. Raises UsageError."""
    try:
        return flag, None if text is None else _OPTIONS[setting].parse(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is not valid: {error}") from None


def evaluate(
    mode: Annotated[Mode, typer.Option(help="multi: all items in one request. serial: one-item requests.")],
    url: Annotated[str, typer.Option(help="Address of the running server.")],
    output_json: Annotated[Path, typer.Option(help="Where the evaluation is written.")],
    labels: Annotated[str | None, _option("labels")] = None,
    delimiter: Annotated[
        str | None, _option("delimiter", default=f"what the server says, else {_shown('delimiter')}")
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
    backend: Annotated[ServingBackend | None, typer.Option(help="What serves (default: what the server says).")] = None,
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
    from pytest_multiitem.evaluation import run
    from pytest_multiitem.targets.attach import settings_of

    settings = settings_of(
        {
            "labels": _value("--labels", "labels", labels),
            "delimiter": _value("--delimiter", "delimiter", delimiter),
            "semantics": _value("--semantics", "semantics", semantics),
            "seed": _value("--seed", "seed", seed),
            "query_tokens": _value("--query-tokens", "query_tokens", query_tokens),
            "item_tokens": _value("--item-tokens", "item_tokens", item_tokens),
            "items": _value("--items", "items", items),
            "bench_timed_runs": _value("--timed-runs", "bench_timed_runs", timed_runs),
            "bench_warmup_runs": _value("--warmup-runs", "bench_warmup_runs", warmup_runs),
            "model": ("--model", model),
            "backend": ("--backend", None if backend is None else (backend.value,)),
            "engine": ("--engine", engine),
            "vocab_size": _value("--vocab-size", "vocab_size", vocab_size),
            "workload": _value("--workload", "workload", workload),
            "request_timeout": _value("--timeout", "request_timeout", timeout),
            "api_key_env": _value("--api-key-env", "api_key_env", api_key_env),
            "ca_file": _value("--ca-file", "ca_file", ca_file),
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
    from pytest_multiitem.evaluation import records, validity

    if torch_serial is not None and reference is not None:
        raise UsageError("--torch-serial and --reference are two ways to one torch reference; give one of them")
    records.check_writable(output_json)
    ours, theirs = validity.open_side(multi, "multi"), validity.open_side(serial, "serial")
    validity.check_same_requests(ours, theirs)
    torch = None
    if torch_serial is not None or reference is not None:
        from pytest_multiitem.evaluation import reference as references

        if torch_serial is not None:
            side = validity.open_side(torch_serial, "serial")
            validity.check_same_requests(theirs, side, timed=False)
            torch = references.from_evaluation(side)
        elif reference is not None:
            torch = references.from_transformers(reference, theirs)
    records.write(output_json, joining.combine(ours, theirs, torch))
    for side in (ours, theirs):
        if side.evaluation.failure is not None:
            typer.echo(f"multiitem: {side.path} ended early; gates that need the rest will fail", err=True)
    typer.echo(f"wrote {output_json}")


def check(
    combined: Annotated[list[Path], typer.Argument(help="Combined results; several files are laid together.")],
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="INCONCLUSIVE does not fail.")
    ] = False,
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
