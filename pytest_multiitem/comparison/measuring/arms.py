"""An A/B pair: both arms' servers up together, measured in interleaved blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_multiitem.adapters.base import Engine, Profile, Role, choose_engine
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision.pair import apart, pair_of
from pytest_multiitem.comparison.measuring.rows import row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected, Side, with_served_delimiter
from pytest_multiitem.comparison.measuring.variation import Variation, check_pair, check_urls, variation
from pytest_multiitem.comparison.own_requests import canonical_of
from pytest_multiitem.comparison.records import PairRecord, Row, WorkloadRequest
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.settings.project_file import project_settings
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTION_OF, Settings
from pytest_multiitem.targets.target import Target
from pytest_multiitem.traffic.loading import fitted
from pytest_multiitem.transport.address import is_same_server
from pytest_multiitem.untrusted.secrets import redacted, redacted_command

Mode = Literal["packed", "prefill_extend", "serial"]
_ROLES: Mapping[Mode, Role] = {"packed": "multi", "prefill_extend": "extend", "serial": "serial"}
#: Items that are named, of those that two arms score differently.
_NAMED = 3


@dataclass(frozen=True)
class Arm:
    """One arm: what makes it, and its server."""

    variation: Variation
    side: Side

    @property
    def name(self) -> str:
        """A or B."""
        return self.variation.name

    @property
    def words(self) -> list[str]:
        """What makes it, as it was given; no secret is in it."""
        return redacted_command([f"{name}={value}" for name, value in self.variation.words.items()])


@dataclass(frozen=True)
class Pair:
    """What was measured: the arms, their rows, and the record of what they come to."""

    arms: tuple[Arm, Arm]
    rows: tuple[Row, Row]
    record: PairRecord


def arms_of(a: Sequence[str], b: Sequence[str], given: Mapping[str, str | None], mode: Mode) -> tuple[Arm, Arm]:
    """The two arms of ``NAME=VALUE`` words and of the options that both share, ``given`` by their ini keys.

    Raises UsageError for a variable that no setting has, for a setting that leaves open what an arm is, for arms that
    are the same, and for what cannot differ between two such servers.
    """
    role = _ROLES[mode]
    varied = variation("A", a, role), variation("B", b, role)
    check_pair(*varied, role, mode)
    first, second = (_arm(each, given, role, mode) for each in varied)
    for side in (first.side, second.side):
        check_urls(*varied, side.url, side.settings.origins["serial_url" if role == "serial" else "multi_url"], role)
    if _identity(first) == _identity(second):
        raise UsageError(
            "both arms have the same settings; give each its own variable, such as --a MULTI_ITEM_MASK_IMPL=dense --b "
            "MULTI_ITEM_MASK_IMPL=segment (an option on the command line wins over a variable)"
        )
    return first, second


def measure(arms: tuple[Arm, Arm], directory: Path, bar: ProgressBar | None = None) -> Pair:
    """Start both servers, or attach to those that run already, and time the benchmark's request on them, or the
    requests of the user's workload, ABBA. ``bar``: shows how far it is.

    Raises EngineUnavailable, ServerError, or UsageError where the servers cannot be up together, or are one.
    """
    settings = arms[0].side.settings
    if len({(s.bench_query_tokens, s.bench_items, s.item_tokens, s.workload) for s in _settings(arms)}) > 1:
        raise UsageError("the arms have different shapes of requests; an A/B pair is of the same request")
    if any(arm.side.url is None and arm.side.settings.device != "cpu" for arm in arms):
        raise UsageError(
            "an accelerator holds one server at a time, so its arms cannot be interleaved; run the benchmark for each, "
            "or start both servers yourself, each on a device of its own: --a url=URL --b url=URL"
        )
    _check_launches(arms)
    _check_addresses(arms)
    settings = with_served_delimiter(settings, [arm.side for arm in arms])
    is_default = settings.origins["bench_timed_runs"] == "default"
    # As many runs as the user chose; else enough for a verdict, which the benchmark's default is not.
    timed_runs = settings.confirm_runs if is_default else settings.bench_timed_runs
    steps = _Steps(bar, timed_runs)
    with ExitStack() as stack:
        connected = [Connected(arm.side, directory / arm.name) for arm in arms]
        for each in connected:
            stack.callback(each.close)
        targets = []
        for arm, each in zip(arms, connected, strict=True):
            steps.say(f"arm {arm.name}: {'starting its server' if arm.side.url is None else f'asking {arm.side.url}'}")
            targets.append(each.open())
        steps.say("warming both up")
        requests = requests_of(settings, targets)
        largest = max(len(request.items_token_ids) for request in requests)
        samples = sample(
            [(target, largest) for target in targets],
            requests,
            warmup_runs=settings.bench_warmup_runs,
            timed_runs=timed_runs,
            seed=settings.seed,
            on_block=steps.timed,
        )
        served = {arm.name: _served(arm, target) for arm, target in zip(arms, targets, strict=True)}
    a, b = map(row_of, samples)
    first, second = arms
    variables = {arm.name: redacted(dict(arm.variation.words)) for arm in arms}
    record = pair_of(variables, {first.name: a, second.name: b}, requests[0].label_token_ids)
    record.served, record.requests = served, len(requests)
    return Pair(arms, (a, b), record)


@dataclass
class _Steps:
    """What is said of a pair while it is measured. ``runs``: of each arm."""

    bar: ProgressBar | None
    runs: int

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.describe(text)
            self.bar.print(text)

    def timed(self, runs: int) -> None:
        if self.bar is not None:
            self.bar.set_total(self.runs)
            self.bar.set_completed(runs)
        self.say(f"timed: run {runs} of {self.runs} of each arm")


def requests_of(settings: Settings, targets: Sequence[Target]) -> list[WorkloadRequest]:
    """What both arms are sent: the user's requests, or the benchmark's. Raises UsageError where the user's are not the
    same ids for both."""
    own = [canonical_of(settings, served=target.model) for target in targets]
    first = own[0]
    if first is None:
        return workload.of_run(settings).requests
    if any(each is None or each.requests != first.requests for each in own):
        raise UsageError(
            f"--workload {settings.workload}: the two servers' tokenizers make other ids of its text, so it would not "
            "be the same request; give token ids, or one --tokenizer for both"
        )
    return first.requests


def table(pair: Pair) -> tuple[list[str], list[list[str]]]:
    """Header and rows: an arm a row."""
    header = ["arm", "settings", "backend", "executed", "runs", "p50 ms", "items/s"]
    rows = []
    for arm, row in zip(pair.arms, pair.rows, strict=True):
        timed = "-" if row.p50_total_e2e_ms is None else f"{row.p50_total_e2e_ms:.1f}"
        rate = "-" if row.throughput_items_sec is None else f"{row.throughput_items_sec:.1f}"
        runs = f"{row.successful_runs} of {row.timed_runs}"
        backend = pair.record.served.get(arm.name, {}).get("backend") or arm.side.backend
        version = pair.record.served.get(arm.name, {}).get("version")
        words = " ".join([*arm.words, *([f"({version})"] if version else [])]) or "-"
        rows.append([arm.name, words, backend, row.mask_attested or "-", runs, timed, rate])
    return header, rows


def lines(pair: Pair) -> list[str]:
    """What the table comes to: the ratio with its interval, how far the scores are apart, and what else differs."""
    lines = []
    found = pair.record
    if found.ratio_p50 is not None:
        bounds = found.ratio_interval_95
        interval = "" if bounds is None else " (95 % interval {:.3g} to {:.3g})".format(*bounds)
        lines.append(f"A / B, p50: {found.ratio_p50:.3g}{interval}: {found.verdict}")
    return [*lines, *_score_lines(pair), *_differences(found)]


def problems(pair: Pair) -> list[str]:
    """What keeps the pair from being one: failed runs, wrong scores, and paths that did not run as asked; and scores of
    the two arms that are not the same."""
    problems = []
    for arm, row in zip(pair.arms, pair.rows, strict=True):
        problems += [
            f"arm {arm.name}: {problem}" for problem in (row.attestation_problem, row.score_problem) if problem
        ]
        if row.status != "ok":
            message = next((r.failure_detail for r in row.run_records if r.failure_detail), "")
            problems.append(f"arm {arm.name}: {row.status}: {message}")
    found = pair.record.agreement
    other = apart(found)
    if other is not None:
        problems.append(f"{other}; the speed of one says nothing about the other")
    elif not problems and (found is None or found.max_abs_diff is None):
        why = "no score was received" if found is None else found.problem
        problems.append(f"the scores of the arms could not be compared: {why}")
    return problems


def _score_lines(pair: Pair) -> list[str]:
    """Old against new: the largest and the mean difference, the ranking, the noise beside it, and the worst items."""
    found = pair.record.agreement
    if found is None or found.max_abs_diff is None or found.mean_abs_diff is None:
        return []
    rank = "-" if found.kendall_tau is None else f"{found.kendall_tau:.4g}"
    floors = ", ".join(
        f"{arm.name} {'-' if row.noise_floor is None else f'{row.noise_floor:.2g}'}"
        for arm, row in zip(pair.arms, pair.rows, strict=True)
    )
    shown = [
        f"scores differ by at most {found.max_abs_diff:.2g}, {found.mean_abs_diff:.2g} on average; rank correlation "
        f"(Kendall's tau-b) {rank}; noise floor {floors}"
    ]
    if found.worst_items:
        worst = ", ".join(
            f"{item['index']} (A {item['a'][0]:.4g}, B {item['b'][0]:.4g})" for item in found.worst_items[:_NAMED]
        )
        shown.append(f"items that differ most, with the first label's score: {worst}")
    return shown


def _differences(record: PairRecord) -> list[str]:
    """What the servers say of themselves differs, beside what was varied."""
    a, b = record.served.values() if len(record.served) == 2 else ({}, {})
    names = [name for name in ("model", "dtype", "engine") if a.get(name) != b.get(name)]
    return [f"note: {name} is {a.get(name) or 'not told'} of A, {b.get(name) or 'not told'} of B" for name in names]


def _served(arm: Arm, target: Target) -> dict[str, str | None]:
    """Who has answered. ``version``: of what was checked out or installed, or as the server says."""
    return {
        "url": None if target.owned else target.url,
        "engine": target.engine,
        "backend": target.profile.backend,
        "model": target.model,
        "dtype": target.dtype,
        "version": arm.variation.version or target.engine_version(arm.side.settings),
    }


def _settings(arms: tuple[Arm, Arm]) -> list[Settings]:
    return [arm.side.settings for arm in arms]


def _identity(arm: Arm) -> tuple[object, ...]:
    """What makes an arm another one: settings, server, and the sources that it runs."""
    checkout = arm.variation.place if arm.variation.kind == "checkout" else None
    return arm.side.settings, arm.side.profile, None if checkout is None else Path(checkout).expanduser().resolve()


def _check_addresses(arms: tuple[Arm, Arm]) -> None:
    """Raises UsageError where both arms are one server that runs already, whatever its addresses are called."""
    first, second = (arm.side.url for arm in arms)
    if first is not None and second is not None and is_same_server(first, second):
        raise UsageError(
            f"both arms are the same server: {first} and {second} lead to one address; give each arm a server of its "
            "own: --a url=URL --b url=URL"
        )


def _check_launches(arms: tuple[Arm, Arm]) -> None:
    """Raises UsageError where both arms start one and the same server, whatever their settings are called."""
    if any(arm.side.url is not None for arm in arms):
        return
    launches = []
    for arm in arms:
        reason = arm.side.engine.unavailable(arm.side.profile, arm.side.settings)
        if reason is not None:
            raise EngineUnavailable(f"arm {arm.name}: {reason}")
        spec = arm.side.engine.launch(arm.side.profile, arm.side.settings)
        launches.append((spec.command, dict(spec.env)))
    if launches[0] == launches[1]:
        names = ", ".join(dict.fromkeys(name for arm in arms for name in arm.variation.words))
        raise UsageError(
            f"both arms start the same server: {names} changes nothing in how it is started; vary what does, or give "
            "url=URL, python=PATH or checkout=DIR"
        )


def _arm(varied: Variation, given: Mapping[str, str | None], role: Role, mode: Mode) -> Arm:
    name = varied.name
    settings = resolve(
        varied.options(role, given), {}, {**os.environ, **varied.variables}, project_settings(Path.cwd())
    )
    engine = choose_engine(settings.engine)
    settings = fitted(engine.fit(settings))
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
    return Arm(varied, Side(backend, (name,), settings, _engine(engine, varied, settings), profile, url))


def _engine(engine: Engine, varied: Variation, settings: Settings) -> Engine:
    """The engine of an arm: another interpreter's, that of a checkout, or the one that the settings name."""
    if varied.kind == "python":
        return engine.elsewhere(python=settings.engine_python)
    if varied.kind == "checkout":
        checkout = Path(str(varied.place)).expanduser()
        if not checkout.is_dir():
            raise UsageError(f"arm {varied.name}: there is no directory {checkout}; expected checkout=DIR")
        return engine.elsewhere(python=settings.engine_python, checkout=checkout)
    return engine
