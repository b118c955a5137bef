"""``multiitem replay``: a counterexample, sent again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import DEFAULTS, ApiKeyEnv, CaFile, Timeout, Url
from pytest_multiitem.commands.output import say


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The counterexample.json of a run.")],
    url: Url,
    serial_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The serial server, where the variant was sent to one.")
    ] = None,
    request_timeout: Timeout = DEFAULTS.request_timeout,
    api_key_env: ApiKeyEnv = DEFAULTS.api_key_env,
    ca_file: CaFile = None,
) -> None:
    """Send the requests of a counterexample again and compare their scores.

    Where others are sent at the same time, or the connection is a fresh one, it is tried several times: what happens
    then need not happen twice.

    Exit status 0: the relation holds. 1: it is violated, or the server did not answer. 2: the file cannot be used.
    """
    from pytest_multiitem.errors import UsageError
    from pytest_multiitem.properties.play import RACE_ATTEMPTS, NoReference, Player, send
    from pytest_multiitem.reports.counterexample import comparison_lines, scenario_lines
    from pytest_multiitem.results.counterexample import read
    from pytest_multiitem.targets.attach import base_url
    from pytest_multiitem.transport.address import api_key
    from pytest_multiitem.transport.client import ScoreClient, ScoreFailure

    counterexample = read(file)
    scenario, limit = counterexample.scenario, counterexample.limit
    address, key = base_url(url), api_key(api_key_env)
    say(f"{counterexample.relation}: {counterexample.states}")
    for line in scenario_lines(scenario):
        say(line)
    if scenario.serial and serial_url is None:
        known = f", such as {counterexample.serial_url}" if counterexample.serial_url else ""
        raise UsageError(f"{file}: its variant is for the serial server; say where that is: --serial-url URL{known}")
    reference = address if serial_url is None else base_url(serial_url)
    with (
        ScoreClient(address, timeout=request_timeout, api_key=key, ca_file=ca_file) as client,
        ScoreClient(reference, timeout=request_timeout, api_key=key, ca_file=ca_file) as serial,
    ):
        try:
            with Player(partial(send, client), client.another, partial(send, serial)) as player:
                player.rows(scenario.base)  # what came before it is not known
                base = player.rows(scenario.base)
                variant, attempts = player.differing(scenario, base, limit)
                difference = float(scenario.differences(base, variant).max())
                holds = difference <= limit
                replays = [] if holds else [player.rows(scenario.base) for _ in range(3)]
        except NoReference as problem:
            raise UsageError(f"the serial server {reference} did not answer: {problem}") from None
        except ScoreFailure as failure:
            say(f"violated: {address} did not answer a valid request: {failure}")
            raise typer.Exit(1) from None
    for line in comparison_lines(scenario, base, variant, limit):
        say(line)
    if replays:  # the last two follow an equal request, so that no state makes them differ
        say(f"replays of the base differ by {float(abs(replays[2] - replays[1]).max()):.3g}")
    tries = f", try {attempts} of at most {RACE_ATTEMPTS}" if scenario.beside or scenario.fresh else ""
    say(f"{'holds' if holds else 'violated'}: difference {difference:.6g}, limit {limit:g}{tries}")
    raise typer.Exit(0 if holds else 1)
