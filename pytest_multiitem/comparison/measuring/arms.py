"""An A/B pair by environment variables: both arms' servers up together, measured in interleaved blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_multiitem.adapters.base import Profile, Role, choose_engine
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision.pair import pair_of
from pytest_multiitem.comparison.measuring.rows import row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected, Side, served_directory, with_served_delimiter
from pytest_multiitem.comparison.own_requests import canonical_of
from pytest_multiitem.comparison.records import PairRecord, Row
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS
from pytest_multiitem.traffic.loading import fitted
from pytest_multiitem.untrusted.secrets import redacted, redacted_command

Mode = Literal["packed", "prefill_extend", "serial"]
_ROLES: Mapping[Mode, Role] = {"packed": "multi", "prefill_extend": "extend", "serial": "serial"}
_VARIABLES = {option.variable: option for option in OPTIONS}


@dataclass(frozen=True)
class Arm:
    """One arm: the variables that make it, and its server."""

    name: str
    variables: Mapping[str, str]
    side: Side

    @property
    def words(self) -> list[str]:
        """The variables as they were given."""
        return [f"{name}={value}" for name, value in self.variables.items()]


@dataclass(frozen=True)
class Pair:
    """What was measured: the arms, their rows, and the record of what they come to."""

    arms: tuple[Arm, Arm]
    rows: tuple[Row, Row]
    record: PairRecord


def arms_of(a: Sequence[str], b: Sequence[str], given: Mapping[str, str | None], mode: Mode) -> tuple[Arm, Arm]:
    """The two arms of ``NAME=VALUE`` words and of the options that both share, ``given`` by their ini keys.

    Raises UsageError for a variable that no setting has, for a setting that leaves open what an arm is, and for
    arms that are the same.
    """
    first, second = (_arm(name, words, given, mode) for name, words in (("A", a), ("B", b)))
    same = (first.side.settings, first.side.profile) == (second.side.settings, second.side.profile)
    if same or first.words == second.words:
        raise UsageError(
            "both arms have the same settings; give each its own variable, such as --a MULTI_ITEM_MASK_IMPL=dense --b "
            "MULTI_ITEM_MASK_IMPL=segment (an option on the command line wins over a variable)"
        )
    return first, second


def measure(arms: tuple[Arm, Arm], directory: Path) -> Pair:
    """Start both servers, or attach to those that run already, and time the benchmark's request on them, ABBA; or the
    user's own requests.

    Raises EngineUnavailable, ServerError, or UsageError where the servers cannot be up together.
    """
    settings = arms[0].side.settings
    if len({(s.bench_query_tokens, s.bench_items, s.item_tokens) for s in (arm.side.settings for arm in arms)}) > 1:
        raise UsageError("the arms have different shapes of requests; an A/B pair is of the same request")
    if any(arm.side.settings.device != "cpu" for arm in arms):
        raise UsageError(
            "an accelerator holds one server at a time, so its arms cannot be interleaved; run the benchmark for each"
        )
    settings = with_served_delimiter(settings, [arm.side for arm in arms])
    sides = [arm.side for arm in arms]
    requests = (canonical_of(settings, served=served_directory(settings, sides)) or workload.of_run(settings)).requests
    most = max(len(request.items_token_ids) for request in requests)
    is_default = settings.origins["bench_timed_runs"] == "default"
    with ExitStack() as stack:
        connected = [Connected(arm.side, directory / arm.name) for arm in arms]
        for each in connected:
            stack.callback(each.close)
        samples = sample(
            [(each.open(), most) for each in connected],
            requests,
            warmup_runs=settings.bench_warmup_runs,
            # As many runs as the user chose; else enough for a verdict, which the benchmark's default is not.
            timed_runs=settings.confirm_runs if is_default else settings.bench_timed_runs,
            seed=settings.seed,
        )
    a, b = map(row_of, samples)
    first, second = arms
    variables = {arm.name: redacted(dict(arm.variables)) for arm in arms}
    return Pair(arms, (a, b), pair_of(variables, {first.name: a, second.name: b}, settings.labels))


def table(pair: Pair) -> tuple[list[str], list[list[str]]]:
    """Header and rows: an arm a row."""
    header = ["arm", "settings", "backend", "executed", "runs", "p50 ms", "items/s"]
    rows = []
    for arm, row in zip(pair.arms, pair.rows, strict=True):
        timed = "-" if row.p50_total_e2e_ms is None else f"{row.p50_total_e2e_ms:.1f}"
        rate = "-" if row.throughput_items_sec is None else f"{row.throughput_items_sec:.1f}"
        runs = f"{row.successful_runs} of {row.timed_runs}"
        words = " ".join(redacted_command(arm.words)) or "-"
        rows.append([arm.name, words, arm.side.backend, row.mask_attested or "-", runs, timed, rate])
    return header, rows


def lines(pair: Pair) -> list[str]:
    """What the table comes to: the ratio with its interval, how far the scores are apart, and what went wrong."""
    lines = []
    found = pair.record
    if found.ratio_p50 is not None:
        bounds = found.ratio_interval_95
        interval = "" if bounds is None else " (95 % interval {:.3g} to {:.3g})".format(*bounds)
        lines.append(f"A / B, p50: {found.ratio_p50:.3g}{interval}: {found.verdict}")
    if found.agreement is not None and found.agreement.max_abs_diff is not None:
        lines.append(f"scores differ by at most {found.agreement.max_abs_diff:.2g}")
    return lines


def problems(pair: Pair) -> list[str]:
    """What keeps the pair from being one: failed runs, and paths that did not run as asked."""
    problems = []
    for arm, row in zip(pair.arms, pair.rows, strict=True):
        problems += [
            f"arm {arm.name}: {problem}" for problem in (row.attestation_problem, row.score_problem) if problem
        ]
        if row.status != "ok":
            message = next((r.failure_detail for r in row.run_records if r.failure_detail), "")
            problems.append(f"arm {arm.name}: {row.status}: {message}")
    return problems


def _arm(name: str, words: Sequence[str], given: Mapping[str, str | None], mode: Mode) -> Arm:
    variables: dict[str, str] = {}
    for word in words:
        variable, equals, value = word.partition("=")
        if not equals or variable not in _VARIABLES:
            hint = did_you_mean(variable, _VARIABLES)
            raise UsageError(f"arm {name}: {word!r} is no NAME=VALUE of a setting's environment variable{hint}")
        variables[variable] = value
    settings = resolve(given, {}, {**os.environ, **variables})
    engine = choose_engine(settings.engine)
    settings = fitted(engine.fit(settings))
    role = _ROLES[mode]
    url = settings.serial_url if role == "serial" else settings.multi_url
    packed = role == "multi" and url is None
    for setting, needed in (("backend", url is None), ("mask_impl", packed)):
        if needed and len(getattr(settings, setting)) > 1:
            option = OPTION_OF[setting]
            raise UsageError(
                f"arm {name} has {setting} {settings.shown(setting)}; name one: {option.short_flag}, or "
                f"{option.variable} in the arm"
            )
    backend = settings.backend[0] if len(settings.backend) == 1 else ATTACHED
    mask, chunk_size = (settings.mask_impl[0], settings.server_chunk_size[0]) if packed else (None, None)
    semantics = {"multi": Semantics(settings.semantics), "extend": Semantics.QUERY_PREFIX, "serial": None}[role]
    profile = Profile(role, backend, mask, chunk_size, semantics)
    return Arm(name, variables, Side(backend, (name,), settings, engine, profile, url))
