"""Who is timed: a server, and how a request's items are sent to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.engine_speed import memory
from benchmarks.engine_speed.shapes import DELIMITER, LABELS, Shape
from pytest_multiitem.adapters.base import Engine, Profile, choose_engine
from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.results.machine import cpu_count
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.servers.starter import Starter
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.ready import ScoredRequest
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import PreparedRequest, ScoreClient, prepare

PathName = Literal["segment", "cached", "dense", "extend", "serial"]
OWN_PATHS: tuple[PathName, ...] = ("segment", "cached", "dense", "extend", "serial")
#: Items of a timed run where every item costs a whole pass: enough for a time per item.
SERIAL_ITEMS = 8
#: Sequences of a forward pass of the padded baseline.
PADDED_BATCH = 8
#: Client chunk sizes of the real engine; beside them, all items in one request.
SGLANG_CHUNKS = (1, 8, 32, 128)

_STARTUP = 400.0  # seconds; the real engine on two busy cores needs most of a minute
_TIMEOUT = 900.0  # seconds of one request
_TRANSFORMERS = Path(__file__).parents[1] / "transformers_server.py"


@dataclass(eq=False)
class Server:
    """A running server, and what it held when it was ready and had scored three tokens."""

    key: str
    target: Target
    pids: list[int]
    idle_bytes: int | None


@dataclass(frozen=True, eq=False)
class Side:
    """A way to score a request.

    ``chunk``: items of a call, None: all. ``most_items``: items of a timed run, None: all of the request.
    ``knows_query``: the server has scored another item behind the same query just before the clock starts.
    ``work``: which sequences are computed. ``scanned``: several modes of an engine are tried, and of the slow ones
    only the fastest are timed again. ``warm_items``: items of the warm-up, None: as in a timed run.
    """

    key: str
    about: str
    backend: str
    server: Server
    work: Literal["packed", "extended", "serial"]
    chunk: int | None = None
    most_items: int | None = None
    knows_query: bool = False
    scanned: bool = False
    warm_items: int | None = None

    def items(self, shape: Shape) -> int:
        """How many items of a request a timed run scores."""
        return min(shape.items, self.most_items or shape.items)

    def fits(self, shape: Shape) -> bool:
        """Whether a request has items for more than one call, where calls are of several items; else it is another
        side's request again."""
        return self.chunk is None or self.chunk == 1 or self.chunk < shape.items

    def requests(self, case: Case, items: int) -> list[PreparedRequest]:
        """The first ``items`` items of a request in encoded calls."""
        size = self.chunk or items
        return [
            prepare(case.query, case.items[at : min(at + size, items)], case.labels) for at in range(0, items, size)
        ]


@dataclass
class Started:
    """The sides that can be timed, and why others cannot, by the key of their server."""

    sides: list[Side]
    servers: dict[str, Server]
    missing: dict[str, str]


@dataclass(frozen=True, eq=False)
class Wanted:
    """A server to start. ``sides``: the ways to score a request on it."""

    key: str
    profile: Profile
    spec: LaunchSpec
    engine: Engine | None
    settings: Settings | None
    sides: Callable[[Server], list[Side]]


def own(
    backend: str,
    paths: Sequence[PathName] = OWN_PATHS,
    *,
    model: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    extend_batch: int = 32,
    delimiter: int = DELIMITER,
) -> list[Wanted]:
    """The embedded engine's servers of a backend. Raises EngineUnavailable where its packages are missing."""
    engine = choose_engine("embedded")
    given = {
        "multiitem_backend": backend,
        "multiitem_device": device,
        "multiitem_dtype": dtype,
        "multiitem_delimiter": str(delimiter),
        "multiitem_extend_batch_size": str(extend_batch),
        "multiitem_startup_timeout": str(_STARTUP),
        "multiitem_bench_log_level": "warning",
        **({} if model is None else {"multiitem_model": str(model)}),
    }
    settings = engine.fit(resolve(given, {}, {}))
    reason = engine.unavailable(Profile("serial", backend), settings)
    if reason is not None:
        raise EngineUnavailable(reason)

    def packed(mask: PathName) -> Wanted:
        profile = Profile("multi", backend, mask, 0, Semantics.PREFIX_FIRST_DELIM)
        spec = engine.launch(profile, settings)
        sides = _one(mask, f"packed, {mask}", backend, "packed")
        return Wanted(f"{backend} {mask}", profile, spec, engine, settings, sides)

    def cached() -> Wanted:
        """The packed segment path that keeps queries, behind a known one. Behind a new one it is `segment`."""
        plain = packed("segment")
        spec = replace(plain.spec, label="cached", command=(*plain.spec.command, "--enable-scoring-cache"))

        def sides(server: Server) -> list[Side]:
            return [Side("cached_again", "packed, segment, query known", backend, server, "packed", knows_query=True)]

        return Wanted(f"{backend} cached", plain.profile, spec, engine, settings, sides)

    def extend() -> Wanted:
        profile = Profile("extend", backend)

        def sides(server: Server) -> list[Side]:
            return [
                Side("extend", f"prefill+extend, {extend_batch} items a batch", backend, server, "extended"),
                Side(
                    "extend_again",
                    f"prefill+extend, {extend_batch} items a batch, query known",
                    backend,
                    server,
                    "extended",
                    knows_query=True,
                ),
            ]

        return Wanted(f"{backend} extend", profile, engine.launch(profile, settings), engine, settings, sides)

    def serial() -> Wanted:
        profile = Profile("serial", backend)

        def sides(server: Server) -> list[Side]:
            return [
                Side("serial", "serial, one-item calls", backend, server, "serial", 1, SERIAL_ITEMS),
                Side("serial_one_call", "serial, one call", backend, server, "serial", None, SERIAL_ITEMS),
            ]

        return Wanted(f"{backend} serial", profile, engine.launch(profile, settings), engine, settings, sides)

    makers: dict[PathName, Callable[[], Wanted]] = {
        "segment": lambda: packed("segment"),
        "cached": cached,
        "dense": lambda: packed("dense"),
        "extend": extend,
        "serial": serial,
    }
    return [makers[path]() for path in paths]


def transformers(model: Path) -> list[Wanted]:
    """Transformers' own model, as a loop over items and in padded batches."""
    found = []
    for key, batch, about in (
        ("transformers_loop", 1, "loop over items"),
        ("transformers_padded", PADDED_BATCH, f"padded batches of {PADDED_BATCH}"),
    ):
        command = [sys.executable, str(_TRANSFORMERS), "--model-path", str(model), "--batch", str(batch)]
        spec = LaunchSpec(
            label=key,
            command=(*command, "--port", "{port}"),
            preferred_port=30040,
            startup_timeout=_STARTUP,
        )
        sides = _one(key, about, "transformers", "serial", most_items=SERIAL_ITEMS)
        found.append(Wanted(key, Profile("serial", "transformers"), spec, None, None, sides))
    return found


def sglang(python: Path, model: Path) -> list[Wanted]:
    """The real sglang on this processor, which scores serially there: with the flags of the repository's launch
    profiles, and tuned, that is with the radix cache that shares the query between calls.

    Raises EngineUnavailable where its environment is missing or is another version's.
    """
    if not python.exists():
        raise EngineUnavailable(f"there is no {_shown(python)}; build the environment with: make engines")
    engine = choose_engine("sglang")
    given = {
        "multiitem_engine": "sglang",
        "multiitem_engine_python": str(python),
        "multiitem_model": str(model),
        "multiitem_device": "cpu",
        "multiitem_startup_timeout": str(_STARTUP),
    }
    settings = engine.fit(resolve(given, {}, {}))
    found = []
    for tuned in (False, True):
        profile = Profile("serial", "pytorch", tuned=tuned)
        reason = engine.unavailable(profile, settings)
        if reason is not None:
            raise EngineUnavailable(reason)
        key = "sglang_tuned" if tuned else "sglang"

        def sides(server: Server, key: str = key, tuned: bool = tuned) -> list[Side]:
            name = "radix cache on, " if tuned else ""
            # Without the cache no call helps another, so a few items tell the time of each. With it, the first call
            # computes the query for all that follow, so only all items of a request do.
            return [
                Side(
                    f"{key}_{chunk or 'all'}",
                    f"{name}{_calls(chunk)}",
                    "sglang",
                    server,
                    "serial",
                    chunk,
                    None if tuned or chunk is None else max(chunk, SERIAL_ITEMS),
                    scanned=True,
                    warm_items=SERIAL_ITEMS,
                )
                for chunk in (*SGLANG_CHUNKS, None)
            ]

        found.append(Wanted(key, profile, engine.launch(profile, settings), engine, settings, sides))
    return found


@contextmanager
def started(
    wanted: Sequence[Wanted], directory: Path, say: Callable[[str], None], *, labels: Sequence[int] = LABELS
) -> Iterator[Started]:
    """Start servers, as many at a time as there are cores, and stop every one of them at the end, whatever ends it.

    ``labels``: ids inside the served vocabulary, for the request that tells whether a server is ready.
    """
    ready = ScoredRequest(labels, within=_STARTUP)
    with ExitStack() as stack:
        pool = stack.enter_context(ServerPool(directory, owner=True))
        starter = Starter(pool, ready, at_once=cpu_count())
        stack.callback(starter.close)
        starter.begin(one.spec for one in wanted)
        found = Started([], {}, {})
        running: list[tuple[Wanted, RunningServer]] = []
        for one in wanted:
            try:
                running.append((one, starter.server(one.spec)))
            except MultiItemError as error:
                found.missing[one.key] = str(error).splitlines()[0]
                say(f"{one.key}: NOT_RUN: {found.missing[one.key]}")
                continue
            say(f"{one.key}: ready")
        for one, server in running:
            client = stack.enter_context(ScoreClient(server.url, timeout=_TIMEOUT))
            asked = one.engine.asked(one.profile, one.settings) if one.engine and one.settings else {}
            delimiter = one.settings.delimiter if one.settings else DELIMITER
            target = Target(one.profile, one.key, client, server, one.engine, asked=asked, delimiter=delimiter)
            pids = memory.processes(server)
            found.servers[one.key] = Server(one.key, target, pids, memory.resident(pids))
            found.sides += one.sides(found.servers[one.key])
        yield found


def _one(
    key: str,
    about: str,
    backend: str,
    work: Literal["packed", "extended", "serial"],
    *,
    most_items: int | None = None,
) -> Callable[[Server], list[Side]]:
    return lambda server: [Side(key, about, backend, server, work, None, most_items)]


def _calls(chunk: int | None) -> str:
    """How items are sent, for people."""
    return {None: "all items in one call", 1: "one-item calls"}.get(chunk, f"{chunk} items a call")


def _shown(path: Path) -> str:
    """A path for messages: relative to the repository, where it lies in it."""
    root = Path(__file__).parents[2]
    absolute = path.absolute()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else path.name
