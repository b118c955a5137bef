"""A build under test: the servers that the gates ask for, some of them faulty, in one lab process a backend."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import httpx
import msgspec

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.faults.catalogue import server_environment
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import Case, built_in_cases, equal_length_case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import REFERENCE, Part
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.ready import ScoredRequest
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreClient

#: The masks of the parts that pack items into sequences: the server under test, and the one it is compared with.
_MASKS: dict[Part, str] = {"multi": "segment", "other_mask": "dense"}
PACKED = frozenset(_MASKS)
#: Tokens of the longest sequence that a server of a build takes: a request beyond it is soon made and soon refused.
CONTEXT_LENGTH = 4096
#: Items of the built-in requests: fewer than the suites send, since there are more than two hundred builds.
_MIXED_ITEMS, _EQUAL_ITEMS = 10, 12
#: Requests that the search tries on a build: two of every share of a relation.
_EXAMPLES = 44
#: How far the evidence goes where a fault needs no more: there are some two hundred builds.
_EFFORT = "quick"
#: Seconds in which a process turns out to have ended whose connection broke.
_PATIENCE = 0.2
#: Seconds until a faulty server's process answers its first look: it loads no model.
_PROXY_STARTUP = 30.0


class Labs:
    """The lab processes of a run, one a backend, and the servers they hold. Started when first asked for.

    Not thread-safe: each thread has its own; they share the processes through ``pool``.
    """

    def __init__(self, pool: ServerPool, settings: Settings) -> None:
        self.settings = settings
        self._samples: list[bytes] = []
        self._pool = pool
        self._labs: dict[str, RunningServer] = {}
        self._healthy: dict[Any, Build] = {}

    def record(self, line: dict[str, Any]) -> None:
        """Keep a raw sample."""
        self._samples.append(msgspec.json.encode(line) + b"\n")

    def take_samples(self) -> bytes:
        """The samples since this was last asked, a JSON line each."""
        samples, self._samples = self._samples, []
        return b"".join(samples)

    def healthy(self, backend: str, circumstances: Mapping[str, Any]) -> Build:
        """The healthy build of a backend under some circumstances; the same one at every asking."""
        key = (backend, tuple(sorted(circumstances.items())))
        if key not in self._healthy:
            self._healthy[key] = Build(self, backend, None, circumstances)
        return self._healthy[key]

    def target(self, profile: Profile, settings: Settings, fault: Fault | None) -> Target:
        """A server of a profile, with or without a fault.

        Raises EngineUnavailable where the backend is not installed, ScoreFailure and ServerError where it is not
        ready: health, then one real scored request.
        """
        reason = EMBEDDED.unavailable(profile, settings)
        if reason is not None:
            raise EngineUnavailable(reason)
        command = [*EMBEDDED.arguments(profile, settings), "--context-length", str(CONTEXT_LENGTH)]
        if fault is not None and not fault.own_process:
            command += ["--variation" if fault.healthy else "--fault", fault.label]
        # The reference is transformers' own model, which is torch as well.
        server = self._lab("pytorch" if profile.backend == REFERENCE else profile.backend)
        url = server.url + self._mount(server, command)
        if fault is not None and fault.own_process:
            server = self._started(
                f"{profile.label} {fault.label}",
                ("pytest_multiitem.faults.proxy", "--upstream", url, "--fault", fault.label),
                port=30_120,
                timeout=_PROXY_STARTUP,
                restart=True,
            )
            url = server.url
        ready = ScoredRequest(settings.labels, within=settings.request_timeout)
        ready(url)
        target = Target(
            profile,
            EMBEDDED.name,
            ScoreClient(url, timeout=settings.request_timeout),
            server,
            adapter=EMBEDDED,
            asked=EMBEDDED.asked(profile, settings),
            delimiter=settings.delimiter,
        )
        ready.hand_over(target)
        return target

    def check_alive(self) -> None:
        """Raises ServerDied where a process has ended that no fault ends: then no failure is a fault's."""
        for lab in self._labs.values():
            lab.check_alive(_PATIENCE)

    def _lab(self, backend: str) -> RunningServer:
        if backend not in self._labs:
            timeout = self.settings.startup_timeout
            command = ("pytest_multiitem.engine.lab",)
            self._labs[backend] = self._started(f"lab {backend}", command, port=30_100, timeout=timeout)
        return self._labs[backend]

    def _started(
        self, label: str, command: tuple[str, ...], *, port: int, timeout: float, restart: bool = False
    ) -> RunningServer:
        """A process of its own; ``command``: a module and its arguments."""
        spec = LaunchSpec(
            label=label,
            command=(sys.executable, "-m", *command, "--port", "{port}"),
            env=server_environment(),
            preferred_port=port,
            startup_timeout=timeout,
        )
        return self._pool.acquire(spec, _healthy, restart=restart)

    def _mount(self, lab: RunningServer, command: list[str]) -> str:
        try:
            answer = httpx.post(
                f"{lab.url}/mount", json={"argv": command}, timeout=self.settings.startup_timeout, trust_env=False
            )
        except httpx.HTTPError as error:
            lab.check_alive(_PATIENCE)
            raise EngineUnavailable(f"{lab.label} does not answer: {error or type(error).__name__}") from None
        if answer.status_code != 200:
            raise EngineUnavailable(answer.text)
        path: str = answer.json()["path"]
        return path


def _healthy(url: str) -> None:
    httpx.get(f"{url}/health", timeout=5, trust_env=False).raise_for_status()


@dataclass(eq=False)
class Build(Subject):
    """The servers of one build of a backend. ``circumstances``: settings that differ from the run's, by name."""

    labs: Labs
    backend: str
    fault: Fault | None
    circumstances: Mapping[str, Any]
    _parts: dict[Part, Target] = field(default_factory=dict)

    _headed: Build | None = None

    client_chunk_size = 8
    shrink = False

    def __post_init__(self) -> None:
        changed: dict[str, Any] = {n: (v,) if n == "server_chunk_size" else v for n, v in self.circumstances.items()}
        self.settings = replace(self.labs.settings, **{"effort": _EFFORT, **changed})
        self.record = self.labs.record
        self.examples = min(_EXAMPLES, self.settings.property_examples)

    @cached_property
    def reference(self) -> Target:
        """Transformers' own model, always healthy."""
        twin = self._healthy_twin()
        return self.labs.target(Profile("serial", REFERENCE), self.settings, None) if twin is self else twin.reference

    @property
    def opposite(self) -> Build:
        """The healthy build of the other backend."""
        other = next(name for name in EMBEDDED.backends if name != self.backend)
        if other not in self.settings.backend:
            raise EngineUnavailable(f"it compares both backends; the settings choose {self.backend} only")
        return self.labs.healthy(other, self.circumstances)

    def built_in_cases(self, target: Target) -> tuple[Case, ...]:
        """The built-in requests of the suites, with fewer items; the same for every server."""
        return self._built_in_cases

    @cached_property
    def _built_in_cases(self) -> tuple[Case, ...]:
        settings, vocab_size = self.settings, self._healthy_twin().serial.vocab_size
        assert vocab_size is not None  # the embedded engine tells it
        return built_in_cases(
            seed=settings.seed,
            labels=settings.labels,
            delimiter=settings.delimiter,
            vocab_size=vocab_size,
            empty_item=EMBEDDED.allows_empty_items,
            mixed_items=_MIXED_ITEMS,
            equal_items=_EQUAL_ITEMS,
        )

    def with_head(self) -> tuple[Target, Target]:
        """Of a build with the same fault, of such a model."""
        if self._headed is None:
            model = tiny_checkpoint(num_labels=len(self.settings.labels))
            circumstances = {**self.circumstances, "model": str(model)}
            healthy = self.fault is None
            headed = Build(self.labs, self.backend, self.fault, circumstances)
            self._headed = self.labs.healthy(self.backend, circumstances) if healthy else headed
        return self._headed.multi, self._headed.serial

    def serial_at_hand(self, target: Target) -> Target:
        """The build's serial server, which the other gates need anyway."""
        return self.serial

    def timing_case(self, target: Target, num_items: int) -> Case:
        """A seeded request of N items; the same for every server."""
        return equal_length_case(
            seed=self.settings.seed,
            query_tokens=self.settings.query_tokens,
            num_items=num_items,
            item_tokens=self.settings.item_tokens,
            labels=self.settings.labels,
            pool=self._built_in_cases[0].pool,
        )

    def close(self) -> None:
        """Close this build's connections; the servers go with their process."""
        if self._headed is not None:
            self._headed.close()
        for target in self._parts.values():
            target.client.close()
        self._parts.clear()

    def _healthy_twin(self, part: Part = "serial") -> Build:
        """The healthy build whose server of a part is the one of this build where that has no fault.

        Servers that pack nothing know of no server chunk size; nobody but a faulty server is waited for for less time.
        """
        known = {"delimiter", "model", *(("server_chunk_size",) if part in PACKED else ())}
        return self.labs.healthy(self.backend, {n: v for n, v in self.circumstances.items() if n in known})

    def server(self, part: Part) -> Target:
        """The server of a part: of this build where it has the fault, else of its healthy twin."""
        twin = self._healthy_twin(part)
        if twin is not self and (self.fault is None or part not in self.fault.scope):
            return twin.server(part)
        if part not in self._parts:
            profile = Profile("serial", self.backend)
            if part in PACKED:
                chunk = self.settings.server_chunk_size[0]
                profile = Profile("multi", self.backend, _MASKS[part], chunk, self.semantics)
            elif part == "extend":
                profile = Profile("extend", self.backend, semantics=Semantics.QUERY_PREFIX)
            self._parts[part] = self.labs.target(profile, self.settings, self.fault)
        return self._parts[part]
