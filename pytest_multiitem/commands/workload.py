"""``multiitem workload``: the canonical workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytest_multiitem.commands import options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.comparison.records import Workload
    from pytest_multiitem.transport.client import ScoreClient

_OUTPUT = Path("canonical_workload.json")


def workload(
    output: Annotated[
        Path, typer.Option("--output-json", metavar="FILE", help="Where the workload is written.")
    ] = _OUTPUT,
    own: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Your own requests, JSON lines, instead of made ones; text with --tokenizer. The options of the shape "
            "do not apply.",
        ),
    ] = None,
    workload_sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Requests drawn of them, by the seed (default: all)."),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Model that it is for; recorded.")] = "Qwen/Qwen3-0.6B",
    query_tokens: options.QueryTokens = options.DEFAULTS.bench_query_tokens,
    items: Annotated[
        int, typer.Option("--num-items", min=1, help="Items of a request.")
    ] = options.DEFAULTS.bench_items,
    item_tokens: options.ItemTokens = options.DEFAULTS.item_tokens,
    requests: Annotated[int, typer.Option(min=1, help="Requests, all of this shape.")] = 1,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL,…",
            help="Labels: token ids, or text with --tokenizer; with --from, only where given "
            f"(default: {options.LABELS}).",
        ),
    ] = None,
    delimiter: Annotated[int, typer.Option(min=0, help="Delimiter token id.")] = options.DEFAULTS.delimiter,
    apply_softmax: Annotated[
        bool, typer.Option("--apply-softmax/--no-apply-softmax", help="Ask for scores that are probabilities.")
    ] = True,
    item_first: Annotated[bool, typer.Option("--item-first", help="Ask for the item before the query.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the content.")] = options.DEFAULTS.seed,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Draw ordinary tokens of this tokenizer: directory, tokenizer.json, hub id."),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(min=2, help="Token ids to draw from (default: the tokenizer's, else 30000).")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Score it on this running server, and record the scores' spread.")
    ] = None,
    request_timeout: options.TimeoutText = str(options.DEFAULTS.request_timeout),
    api_key_env: options.ApiKeyEnv = options.DEFAULTS.api_key_env,
    ca_file: options.CaFileText = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write the canonical workload: from the same options, the same requests on every machine.

    Exit status 1: it is written, but cannot tell items apart, or the server at --url gave no scores.
    """
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison import workload as canonical
    from pytest_multiitem.scoring.cases import checksum_name
    from pytest_multiitem.targets.attach import base_url
    from pytest_multiitem.transport.address import api_key
    from pytest_multiitem.transport.client import ScoreClient, ScoreFailure
    from pytest_multiitem.validation.workload import summary

    if output.exists() and not force:
        raise UsageError(f"{output} exists; name another file with --output-json, or overwrite it with --force")
    client = None
    if url is not None:
        client = ScoreClient(
            base_url(url),
            timeout=options.parse_value("--request-timeout", "request_timeout", request_timeout),
            api_key=api_key(api_key_env),
            ca_file=None if ca_file is None else options.parse_value("--ca-file", "ca_file", ca_file),
        )
    if own is not None:
        made = _of_own(
            own, labels=labels, tokenizer=tokenizer, workload_sample=workload_sample, seed=seed, delimiter=delimiter,
            vocab_size=vocab_size, model=model,
        )  # fmt: skip
    else:
        if workload_sample is not None:
            raise UsageError("--workload-sample draws of your own requests; name their file with --from")
        made = canonical.generate(
            model=model,
            query_tokens=query_tokens,
            num_items=items,
            item_tokens=item_tokens,
            labels=options.label_ids(labels or options.LABELS, tokenizer),
            delimiter=delimiter,
            apply_softmax=apply_softmax,
            item_first=item_first,
            seed=seed,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            num_requests=requests,
        )
    doubts = canonical.doubts(made)
    if client is not None:
        try:
            with client:
                doubts += _measure_spread(made, client)
        except ScoreFailure as failure:
            doubts.append(f"{client.url} gave no scores: {' '.join(str(failure).split())}")
    artefacts.write(output, made)
    say(f"wrote {output}: {summary(made)}" if made.source is None else f"wrote {output}: {made.source.words}")
    for request in made.requests:
        say(f"{request.request_id}: sha256 {made.checksums[checksum_name(request.request_id)]}")
    for figure, value in made.discrimination.items():
        say(f"{figure}: {value:.6g}" if isinstance(value, float) else f"{figure}: {value}")
    for doubt in doubts:
        say(f"multiitem: {doubt}", err=True)
    raise typer.Exit(1 if doubts else 0)


def _of_own(path: Path, *, labels: str | None, **more: Any) -> Workload:
    """A user's own requests. Raises UsageError."""
    from pytest_multiitem.comparison.own_requests import canonical_of
    from pytest_multiitem.targets.attach import settings_of
    from pytest_multiitem.traffic.loading import fitted

    given = {
        "workload": options.parse_value("--from", "workload", str(path)),
        "labels": None if labels is None else options.parse_value("--labels", "labels", labels),
        **more,
    }
    settings = settings_of({name: (f"--{name.replace('_', '-')}", value) for name, value in given.items()})
    made = canonical_of(fitted(settings, starts_servers=False))
    assert made is not None  # there is a workload
    return made


def _measure_spread(workload: Workload, client: ScoreClient) -> list[str]:
    """Score every request once and record the spread; what is wrong with it. Raises ScoreFailure."""
    from pytest_multiitem.gates.evidence import score_spread
    from pytest_multiitem.gates.judge import MIN_SCORE_SPREAD
    from pytest_multiitem.transport.client import prepare

    info = client.server_info() or {}
    scores = []
    for request in workload.requests:  # with softmax: the least spread is one of probabilities, as all gates are
        content = request.query_token_ids, request.items_token_ids, request.label_token_ids
        scores.append(client.send(prepare(*content, item_first=request.item_first)))
    spread = score_spread(scores)
    workload.scores = [rows.tolist() for rows in scores]
    workload.discrimination |= {
        "score_spread": spread,
        "scored_by_url": client.url,
        "scored_by_model": info.get("model_path") or info.get("served_model_name"),
    }
    if spread is None or spread > MIN_SCORE_SPREAD:
        return []
    return [
        f"scores hardly differ between items (range {spread:.3g}, expected above {MIN_SCORE_SPREAD:g}): on this model, "
        "the workload cannot show a leak"
    ]
