"""``multiitem evaluate``, ``combine`` and ``check``: two endpoints measured, their results joined, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import (
    DEFAULTS,
    SERVER_SAYS,
    AllowInconclusive,
    Url,
    check_backend,
    parse_value,
    setting_option,
    with_options,
)
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError, did_you_mean


class Mode(StrEnum):
    """How requests are sent."""

    MULTI = "multi"
    SERIAL = "serial"


_OPTIONS = {
    "labels": setting_option("labels"),
    "delimiter": setting_option("delimiter", default=f"{SERVER_SAYS}, else {DEFAULTS.delimiter}"),
    "semantics": setting_option("semantics", "what the multi-item server computes", default=SERVER_SAYS),
    "seed": setting_option("seed", "seed of the requests"),
    "query_tokens": setting_option("query_tokens", "query length, timed"),
    "item_tokens": setting_option("item_tokens", "item length, timed"),
    "items": setting_option("items", "item counts N that are timed"),
    "bench_timed_runs": setting_option("bench_timed_runs"),
    "bench_warmup_runs": setting_option("bench_warmup_runs"),
    "model": typer.Option(metavar="NAME", help=f"Name of the model (default: {SERVER_SAYS})."),
    "backend": typer.Option(metavar="NAME", help=f"What serves: jax, pytorch, … (default: {SERVER_SAYS})."),
    "engine": typer.Option(metavar="NAME", help="Engine that serves, embedded, sglang or sgl-jax: read its own words."),
    "vocab_size": setting_option("vocab_size", "token ids to draw from", default=f"{SERVER_SAYS}, else 30000"),
    "workload": setting_option("workload", default="built-in requests"),
    "workload_sample": setting_option("workload_sample"),
    "tokenizer": setting_option("tokenizer", default="the served model's, where it lies on this machine"),
    "request_timeout": setting_option("request_timeout"),
    "api_key_env": setting_option("api_key_env", "environment variable with the server's API key"),
    "ca_file": setting_option("ca_file", default="the usual ones"),
}


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
    from pytest_multiitem.evaluation import run
    from pytest_multiitem.targets.attach import settings_of
    from pytest_multiitem.traffic.loading import fitted

    check_backend(given["backend"])
    values = {}
    for name, text in given.items():
        flag = "--" + name.replace("_", "-")
        values[name] = flag, None if text is None else parse_value(flag, name, text)
    settings = fitted(settings_of(values), starts_servers=False)
    evaluation = run.evaluate(
        settings,
        mode=mode.value,
        url=url,
        output=output_json,
        say=lambda text: say(f"{mode.value}: {text}", err=True),
    )
    failure = evaluation.failure
    if failure is not None:
        say(
            f"multiitem: {evaluation.url} failed at {failure.stage}: {failure.kind}: "
            f"{' '.join(failure.message.split())}; "
            f"what was measured is in {output_json}",
            err=True,
        )
        raise typer.Exit(1)
    say(f"wrote {output_json}")
    if evaluation.score_problem is not None:
        say(f"multiitem: {evaluation.url}: {' '.join(evaluation.score_problem.split())}", err=True)
        raise typer.Exit(1)


def combine(
    multi: Annotated[Path, typer.Option("--multi", "--multi-json", help="Evaluation of the multi-item server.")],
    serial: Annotated[Path, typer.Option("--serial", "--serial-json", help="Evaluation of the serial server.")],
    output_json: Annotated[Path | None, typer.Option(help="Where the combined results are written.")] = None,
    output_multi_vs_serial_json: Annotated[
        Path | None, typer.Option(help="Where they are written with the public scripts' fields beside them.")
    ] = None,
    output_jax_torch_parity_json: Annotated[
        Path | None,
        typer.Option(
            help="Where the parity figures are written with the scores that they come from, as the public scripts "
            "write them; without another torch reference, it is the model that the evaluations name."
        ),
    ] = None,
    torch_serial: Annotated[
        Path | None, typer.Option(help="Evaluation of a serial server that runs PyTorch: the torch reference.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--torch-model",
            metavar="MODEL",
            help="Compute the torch reference with transformers: directory or hub id.",
        ),
    ] = None,
) -> None:
    """Join the evaluations of a multi-item and a serial server, and compare with a torch reference."""
    from pytest_multiitem.evaluation import combine as joining
    from pytest_multiitem.evaluation import consistency, public_files, validity
    from pytest_multiitem.reports.html.chapters import write_beside
    from pytest_multiitem.results.store import write_record

    if torch_serial is not None and reference is not None:
        raise UsageError("--torch-serial and --torch-model are two ways to one torch reference; give one of them")
    outputs = [
        path for path in (output_json, output_multi_vs_serial_json, output_jax_torch_parity_json) if path is not None
    ]
    _check_outputs(outputs)
    ours, theirs = consistency.open_side(multi, "multi"), consistency.open_side(serial, "serial")
    validity.check_same_requests(ours, theirs)
    torch = None
    if output_jax_torch_parity_json is not None and torch_serial is None and reference is None:
        reference = ours.evaluation.model
        if reference is None:
            raise UsageError(
                f"{multi} names no model to compute a torch reference of; name it with --torch-model MODEL"
            )
    if torch_serial is not None or reference is not None:
        from pytest_multiitem.evaluation import reference as references

        if torch_serial is not None:
            side = consistency.open_side(torch_serial, "serial")
            validity.check_same_requests(theirs, side, timed=False)
            torch = references.from_evaluation(side)
        elif reference is not None:
            torch = references.from_transformers(reference, theirs)
    combined = joining.combine(ours, theirs, torch)
    if output_json is not None:
        write_record(output_json, combined)
        outputs.append(write_beside(output_json, combined))
    if output_multi_vs_serial_json is not None:
        write_record(output_multi_vs_serial_json, public_files.multi_vs_serial(combined, ours, theirs))
    if output_jax_torch_parity_json is not None and torch is not None:
        write_record(output_jax_torch_parity_json, public_files.parity(combined, ours, theirs, torch))
    for side in (ours, theirs):
        if side.evaluation.failure is not None:
            say(f"multiitem: {side.path} ended early; gates that need the rest will fail", err=True)
    say(f"wrote {', '.join(map(str, outputs))}")


def _check_outputs(paths: list[Path]) -> None:
    """Raises UsageError where there is none, where two are the same, and where one cannot be written."""
    from pytest_multiitem.evaluation.records import check_writable

    if not paths:
        raise UsageError(
            "nothing would be written; name a file with --output-json, or the two of the public scripts with "
            "--output-multi-vs-serial-json and --output-jax-torch-parity-json"
        )
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"two of {', '.join(map(str, paths))} are the same file; give each output one of its own")
    for path in paths:
        check_writable(path)


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
        say(line)
    for line in reported(content):
        say(f"not gated: {line}")
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
