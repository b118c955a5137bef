"""``multiitem matrix``: every client chunk size on one running server, as one side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_multiitem.commands.options import SERVER_SAYS, check_backend, parse_value, setting_option, with_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.comparison.records import ScoreMatrix
    from pytest_multiitem.settings.settings import Settings


class View(StrEnum):
    """What the matrix is a side of."""

    PORTABLE = "portable"
    BEST_NATIVE = "best_native"


_ASKED = "of a JAX server: the {} that it was started with; what it says otherwise is an error"
#: The options that are settings of a run, by their parameters.
_OPTIONS = {
    "compare_chunk_sizes": setting_option("compare_chunk_sizes", default="all, the contract's ten"),
    "bench_warmup_runs": setting_option("bench_warmup_runs", "untimed runs before the timed ones of a row"),
    "bench_timed_runs": setting_option("bench_timed_runs", "timed runs of a row of the sweep"),
    "confirm_runs": setting_option("confirm_runs", "timed runs of a row that is confirmed"),
    "request_timeout": setting_option("request_timeout"),
    "backend": typer.Option(metavar="NAME", help=f"What serves: jax, pytorch, … (default: {SERVER_SAYS})."),
    "engine": typer.Option(metavar="NAME", help="Engine that serves, embedded, sglang or sgl-jax: read its own words."),
    "jax_server_chunk_size": setting_option("server_chunk_size", _ASKED.format("chunk size"), default=SERVER_SAYS),
    "jax_mask_impl": setting_option("mask_impl", _ASKED.format("mask implementation"), default=SERVER_SAYS),
    "jax_segment_fallback_threshold": setting_option(
        "segment_threshold", _ASKED.format("segment fallback threshold"), default=SERVER_SAYS
    ),
    "labels": setting_option("labels", default="those of the workload, line by line"),
    "tokenizer": setting_option("tokenizer", default="the served model's, where it lies on this machine"),
    "workload_sample": setting_option("workload_sample"),
    "delimiter": setting_option("delimiter", default=f"{SERVER_SAYS}, else the workload's"),
    "serial_url": setting_option("serial_url", "a serial server of the same model, for the matrix's own reference"),
    "cost_per_hour": typer.Option(metavar="USD", help="US dollars an hour of the machine: adds what a run costs."),
    "api_key_env": setting_option("api_key_env", "environment variable with the server's API key"),
    "ca_file": setting_option("ca_file", default="the usual ones"),
}
#: The settings of those that have another name.
_SETTINGS = {
    "jax_server_chunk_size": "server_chunk_size", "jax_mask_impl": "mask_impl",
    "jax_segment_fallback_threshold": "segment_threshold",
}  # fmt: skip
#: What was asked of a JAX server, by its name in a matrix.
_RECORDED = {
    "jax_server_chunk_size": "jax_multi_item_scoring_chunk_size",
    "jax_mask_impl": "jax_multi_item_mask_impl",
    "jax_segment_fallback_threshold": "jax_multi_item_segment_fallback_threshold",
}
#: Those of them that are a list where a run has several.
_ONE = ("jax_server_chunk_size", "jax_mask_impl")


@partial(with_options, options=_OPTIONS)
def matrix(
    url: Annotated[str, typer.Option(metavar="URL", help="Address of the running server.")],
    workload: Annotated[
        str, typer.Option(metavar="FILE", help="Your own requests: JSON lines, or a canonical workload.")
    ],
    output_json: Annotated[Path, typer.Option(metavar="FILE", help="Where the matrix is written.")],
    output_markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where its report is written (default: nowhere).")
    ] = None,
    evaluation_view: Annotated[View, typer.Option(help="The view that it is a side of.")] = View.PORTABLE,
    server_config_note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to say of the server, recorded in the matrix.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on with an interrupted matrix; its rows are kept beside it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a finished matrix that is there.")] = False,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Measure one running server at every client chunk size, and write its matrix: a sweep, then the best sizes again.

    The file is one side of `multiitem compare files`. Rows are kept as they are measured: an interrupted matrix goes
    on when the command is typed again. Exit status 0: every row is measured and may win. 1: one failed, has wrong
    scores, or is missing. 2: it could not begin.
    """
    from pytest_multiitem.adapters.base import choose_engine
    from pytest_multiitem.comparison.measuring import one_matrix
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.score_matrix import score_matrix_markdown
    from pytest_multiitem.results.store import write_atomically
    from pytest_multiitem.targets.attach import base_url

    address = base_url(url)
    settings = _settings(given, workload, evaluation_view, fresh=fresh)
    check_backend(given["backend"])
    engine = choose_engine(settings.engine)
    _check_outputs(output_json, output_markdown, force=force)
    settings = one_matrix.known_server(address, settings, engine)
    stated = _stated(given, server_config_note, settings)
    try:
        with ProgressBar() as bar:
            measured = one_matrix.measure_matrix(settings, engine, output_json, bar, stated)
    except KeyboardInterrupt:
        say("interrupted; what is measured is kept: the same command goes on from there", err=True)
        raise
    if output_markdown is not None:
        write_atomically(output_markdown, score_matrix_markdown(measured.matrix).encode())
    if measured.unwritten is not None:
        raise measured.unwritten
    say(_summary(measured.matrix))
    say(f"wrote {output_json}{'' if output_markdown is None else f' and {output_markdown}'}")
    for problem in measured.problems:
        say(f"multiitem: {' '.join(problem.split())}", err=True)
    raise typer.Exit(1 if measured.problems else 0)


def _settings(given: Mapping[str, str | None], workload: str, view: View, *, fresh: bool) -> Settings:
    """The settings of the one side. Raises UsageError for a value that is not valid."""
    from pytest_multiitem.targets.attach import settings_of
    from pytest_multiitem.traffic.loading import fitted

    values: dict[str, tuple[str, Any]] = {
        "workload": ("--workload", parse_value("--workload", "workload", workload)),
        "views": ("--evaluation-view", (view.value,)),
        "fresh": ("--fresh", fresh),
    }
    for name, text in given.items():
        flag, setting = _flag(name), _SETTINGS.get(name, name)
        values[setting] = flag, None if text is None else parse_value(flag, setting, text)
        if name in _ONE and text is not None and len(values[setting][1]) > 1:
            raise UsageError(f"{flag} {text!r} is not valid: a server has one; expected a single value")
    if given["compare_chunk_sizes"] is None:
        values["compare_chunk_sizes"] = "--compare-chunk-sizes", parse_value("", "compare_chunk_sizes", "all")
    return fitted(settings_of(values), starts_servers=False)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_outputs(json: Path, markdown: Path | None, *, force: bool) -> None:
    """Make sure that the files can be written. Raises UsageError."""
    from pytest_multiitem.comparison.measuring.one_matrix import directory_of
    from pytest_multiitem.evaluation.records import check_writable

    if markdown is not None and markdown.resolve() == json.resolve():
        raise UsageError(f"--output-json and --output-markdown both name {json}; give the report a file of its own")
    for path in (json, markdown):
        if path is not None:
            check_writable(path)
    if json.exists() and not force and not directory_of(json).exists():
        raise UsageError(f"{json} exists; name another file with --output-json, or overwrite it with --force")


def _stated(given: Mapping[str, str | None], note: str | None, settings: Settings) -> dict[str, Any]:
    """What the user says of the server, by its names in a matrix. Raises UsageError for words about JAX of another."""
    stated: dict[str, Any] = {}
    for name, recorded in _RECORDED.items():
        if given[name] is None:
            continue
        if settings.backend != ("jax",):
            backend = settings.backend[0]
            raise UsageError(f"{_flag(name)} is of a JAX server, and this one runs {backend}; leave it out")
        value = getattr(settings, _SETTINGS[name])
        stated[recorded] = value[0] if name in _ONE else value
    return stated if note is None else {**stated, "note": note}


def _summary(matrix: ScoreMatrix) -> str:
    """What the matrix recommends, in a line."""
    size = matrix.summary.final_chunk_size
    row = next((r for r in (*matrix.confirm_results, *matrix.results) if r.client_chunk_size == size), None)
    if row is None:
        return f"{matrix.backend} {matrix.evaluation_view}: no client chunk size may win"
    figures = f"{row.throughput_items_sec:,.1f} items/s, p95 {row.p95_total_e2e_ms:,.1f} ms"
    return f"{matrix.backend} {matrix.evaluation_view}: client chunk size {size}, {figures}"
