"""The table of modes, engines and versions: what a run has verified, beside what the adapters declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_multiitem.adapters.base import ENGINES, Engine
from pytest_multiitem.adapters.launched import InstalledEngine
from pytest_multiitem.adapters.rerank import TextEngine
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.groups import group_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.request_contract import MODE_OF_CHECK
from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.reports.variants import beside_variants
from pytest_multiitem.results.details import RequestContract
from pytest_multiitem.results.records import GateRecord, Matrix, Verdict
from pytest_multiitem.results.verified_modes import VerifiedMode, VerifiedModes
from pytest_multiitem.scoring.modes import MODES, ModeName

#: Gates of plain scoring that say whether an engine's own way to ask for it is right.
_PLAIN = ("isolation", "equality")
#: Where an engine's adapter scores by one of these, the plain gates were measured that way: the first that it has.
_WAYS = (ModeName.IDS, ModeName.GENERATIVE_SCORING)


def verified(matrix: Matrix) -> list[VerifiedMode]:
    """What a run says of the modes of its engine, or of the engine that its server is of where that was attached by its
    address alone. Raises UsageError for a run of no engine that ships, and for one that was interrupted: what it left
    out may be what fails."""
    if not matrix.complete:
        raise UsageError(f"run {matrix.run_id} is not complete; give one that came to its end")
    name = next((setting.value for setting in matrix.settings if setting.name == "engine"), "")
    engine = ENGINES.shipped().get(name)
    if engine is None:
        raise UsageError(
            f"run {matrix.run_id} is of the engine {name!r}; expected one of {', '.join(ENGINES.shipped())}"
        )
    own = beside_variants(matrix.gates)
    found = []
    for mode in engine.modes:
        said = [*_said(own, mode, engine)]
        if said:
            found.append(_judged(mode, *_served(matrix, engine, mode), said, matrix.started_at_utc))
    return found


def _served(matrix: Matrix, engine: Engine, mode: ModeName) -> tuple[Engine, str | None]:
    """The engine whose mode it is, and its version; of a server that nobody but its maker has an adapter of, its name
    stands before the version."""
    version = _version(matrix, engine)
    if not isinstance(engine, TextEngine):
        return engine, version
    makers = {str(server.info["maker"]) for server in matrix.servers if server.info and "maker" in server.info}
    if len(makers) != 1:
        return engine, version
    (maker,) = makers
    own = ENGINES.shipped().get(maker)
    if own is not None and mode in own.modes:
        return own, version
    return engine, " ".join(filter(None, (maker, version)))


#: A gate, or a check of one, with its verdict and the backend that it is of.
Said = tuple[str, Verdict, str | None]


def _said(records: Iterable[GateRecord], mode: ModeName, engine: Engine) -> Iterable[Said]:
    way = next((way for way in _WAYS if way in engine.modes), None)
    for record in records:
        if record.verdict is Verdict.NOT_RUN:
            continue
        own = gates()[record.gate].mode
        checks = record.details if isinstance(record.details, RequestContract) else None
        if own == mode or (mode == way and group_of(record.gate) in _PLAIN):
            broken = [f"{record.gate}: {check}" for check in checks.broken] if checks is not None else []
            for name in broken or [record.gate]:
                yield name, record.verdict, record.backend
        elif own is None and checks is not None:  # of the contract of requests; what breaks in a mode is that mode's
            for verdict, made in ((Verdict.PASS, checks.held), (Verdict.FAIL, checks.broken)):
                for check in made:
                    if MODE_OF_CHECK.get(check) == mode:
                        yield f"{record.gate}: {check}", verdict, record.backend


def _judged(mode: ModeName, engine: Engine, version: str | None, said: Sequence[Said], at: str) -> VerifiedMode:
    failing = [name for name, verdict, _ in said if verdict is Verdict.FAIL]
    undecided = [name for name, verdict, _ in said if verdict in (Verdict.ERROR, Verdict.INCONCLUSIVE)]
    because = failing or undecided or [name for name, _, _ in said]
    return VerifiedMode(
        mode=mode.value,
        engine=engine.name,
        version=version,
        holds=False if failing else None if undecided else True,
        because=list(dict.fromkeys(because)),
        backends=list(dict.fromkeys(backend for _, _, backend in said if backend is not None)),
        measured_at_utc=at,
    )


def _version(matrix: Matrix, engine: Engine) -> str | None:
    """By the word of its servers, else as it is installed around them."""
    for server in matrix.servers:
        info = server.info or {}
        for name in ("version", "sglang_version", "package_version"):
            if isinstance(word := info.get(name), str) and info.get("engine") in (None, engine.name):
                return word
        if isinstance(engine, InstalledEngine) and (word := server.packages.get(engine.distribution)) is not None:
            return word
    return None


#: Where what fails is written up: by engine, and gate or check of it.
Findings = Mapping[tuple[str, str], str]


def table(known: VerifiedModes, findings: Findings) -> Rows:
    """Header and rows: a mode a row, an engine's version a column. "By command line only": the adapter speaks it, and
    no run in the file has measured it; "–": the adapter does not speak it. What fails is a link to its finding. Raises
    UsageError for what fails without one."""
    columns: list[tuple[Engine, str | None]] = []
    for name, engine in ENGINES.shipped().items():
        versions = list(dict.fromkeys(each.version for each in known.modes if each.engine == name))
        columns += [(engine, version) for version in versions or [None]]
    found = {(each.engine, each.version, each.mode): each for each in known.modes}
    rows = []
    for mode in MODES:
        cells = [
            _cell(found.get((engine.name, v, mode.name.value)), mode.name, engine, findings) for engine, v in columns
        ]
        rows.append([f"`{mode.name}`", *cells])
    heads = [f"`{engine.name}`{f' {version}' if version else ''}" for engine, version in columns]
    return ["mode", *heads], rows


def _cell(found: VerifiedMode | None, mode: ModeName, engine: Engine, findings: Findings) -> str:
    if found is None:
        return "by command line only" if mode in engine.modes else "–"
    if found.holds:
        return "verified here"
    linked = []
    for name in found.because:
        link = findings.get((engine.name, name))
        if link is None and found.holds is False:
            raise UsageError(
                f"{name!r} fails on {engine.name} {found.version or ''}, and no finding says why; write one into "
                f"docs/findings.md, and under its heading <!-- fails: {engine.name} {name} -->"
            )
        linked.append(f"`{name}`" if link is None else f"[`{name}`]({link})")
    word = "undecided here" if found.holds is None else "fails here"
    return f"{word}: {', '.join(linked)}"
