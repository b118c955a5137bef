"""A counterexample for people: the requests, their rows side by side, and how to send them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.counterexample import Counterexample
from pytest_multiitem.scoring.relations import Scenario, ScoreBody
from pytest_multiitem.transport.address import SCORE_PATH
from pytest_multiitem.transport.client import Scores, prepare

#: Tokens of a sequence that are written out.
_SHOWN_TOKENS = 8
#: A longer command line is no use in a terminal; the file holds the request.
_LONGEST_COMMAND = 4000
#: What a variant is that the serial server is asked for.
_SERIAL = "variant, on the serial server"


def failure_lines(
    found: Counterexample, path: Path, *, api_key_env: str | None = None, further: bool = False
) -> list[str]:
    """What a failed test shows. ``api_key_env``: the variable that holds the server's API key, if there is one; its
    value is never shown. ``further``: another one was shown before, so this one in short."""
    key = f" --api-key-env {api_key_env}" if api_key_env else ""
    url = shlex.quote(found.server.url)
    serial = f" --serial-url {shlex.quote(found.serial_url)}" if found.serial_url else ""
    again = "" if found.reproduced else "; it did not show again when it was sent once more at the end"
    head = f"counterexample: {found.relation}, example {found.examples} of seed {found.seed}{again}"
    replay = f"replay: multiitem replay {shlex.quote(_short(path))} --url {url}{serial}{key}"
    if further:
        differ = found.failure or f"difference {found.difference:.6g}, limit {found.limit:g}"
        return [head, f"  {differ}; saved: {_short(path)}", f"  {replay}"]
    return [
        head,
        *(f"  {line}" for line in scenario_lines(found.scenario)),
        *(f"  {line}" for line in _rows_of(found)),
        f"saved: {_short(path)}",
        replay,
        *(f"{what}: {curl(request, _asked(found, what), api_key_env)}" for what, request in _sent(found.scenario)),
    ]


def scenario_lines(scenario: Scenario) -> list[str]:
    """Every request in a line: its query, its items, its labels."""
    return [f"{what}: {request_text(request)}" for what, request in _sent(scenario, beside=True)]


def request_text(request: ScoreBody) -> str:
    """A request in a line, its sequences shortened."""
    items = ", ".join(sequence_text(item) for item in request.items)
    softmax = "" if request.apply_softmax else ", apply_softmax false"
    labels = sequence_text(request.label_token_ids)
    return f"query {sequence_text(request.query)}, items [{items}], labels {labels}{softmax}"


def sequence_text(tokens: Sequence[int]) -> str:
    """Token ids; those of a regular sequence by its first ones, with how many there are."""
    if len(tokens) <= _SHOWN_TOKENS:
        return "[" + ", ".join(map(str, tokens)) + "]"
    if len(set(tokens)) == 1:
        return f"[{len(tokens)} × {tokens[0]}]"
    step = tokens[1] - tokens[0]
    if all(right - left == step for left, right in pairwise(tokens)):
        return f"[{tokens[0]}, {tokens[1]}, … {tokens[-1]}; {len(tokens)} tokens]"
    return "[" + ", ".join(map(str, tokens[:_SHOWN_TOKENS])) + f", …; {len(tokens)} tokens]"


def comparison_lines(scenario: Scenario, base: Scores, variant: Scores, limit: float) -> list[str]:
    """The rows that must agree side by side, a line a pair."""
    differences = scenario.differences(base, variant)
    rows = [
        [str(left), _numbers(base[left]), str(right), _numbers(variant[right]), f"{difference:.3g}",
         "" if difference <= limit else "differs"]
        for (left, right), difference in zip(scenario.pairs, differences.tolist(), strict=True)
    ]  # fmt: skip
    header = ["row", "base", "row", "variant", "difference", ""]
    notes = []
    if scenario.columns:
        columns = (f"{left} of the base, {right} of the variant" for left, right in scenario.columns)
        notes.append(f"columns: {', '.join(columns)}")
    if scenario.normalise:
        notes.append("rows of the variant are divided by their sum, which must not exceed 1, before they are compared")
    return [*notes, *(line for line in terminal_table(header, rows) if line)]


def curl(request: ScoreBody, url: str, api_key_env: str | None = None) -> str:
    """The command that sends a request, for a shell."""
    prepared = prepare(request.query, request.items, request.label_token_ids, apply_softmax=request.apply_softmax)
    key = f' -H "authorization: Bearer ${api_key_env}"' if api_key_env else ""
    command = (
        f"curl -sS {shlex.quote(url.rstrip('/') + SCORE_PATH)} -H 'content-type: application/json'{key} "
        f"-d {shlex.quote(prepared.body.decode())}"
    )
    return command if len(command) <= _LONGEST_COMMAND else f"a request of {request.tokens} tokens; it is in the file"


def _sent(scenario: Scenario, *, beside: bool = False) -> Iterator[tuple[str, ScoreBody]]:
    """The requests with what they are, in the order in which they are sent."""
    variant = _SERIAL if scenario.serial else "variant, over a fresh connection" if scenario.fresh else "variant"
    yield "base", scenario.base
    yield from (("before", request) for request in scenario.before)
    yield from ((variant, request) for request in scenario.variant)
    if beside:
        yield from (("at the same time", request) for request in scenario.beside)


def _asked(found: Counterexample, what: str) -> str:
    """The server that gets a request."""
    return (found.serial_url if what == _SERIAL else None) or found.server.url


def _rows_of(found: Counterexample) -> list[str]:
    if not found.base_rows or not found.variant_rows:
        return [found.failure or "no answer"]
    base, variant = (np.array(rows, dtype=np.float64) for rows in (found.base_rows, found.variant_rows))
    return [
        *comparison_lines(found.scenario, base, variant, found.limit),
        f"difference {found.difference:.6g}, limit {found.limit:g}, replays of the base differ by {found.noise:.3g}",
    ]


def _numbers(row: Scores) -> str:
    return " ".join(f"{value:.6g}" for value in row.tolist())


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
