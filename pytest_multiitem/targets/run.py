"""What a test process needs to measure: its servers, its cases, and where raw samples go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.results.counterexample import Counterexample, save
from pytest_multiitem.results.machine import cpu_count
from pytest_multiitem.results.records import SettingRecord
from pytest_multiitem.results.redaction import redacted, redacted_command
from pytest_multiitem.results.store import SampleWriter
from pytest_multiitem.scoring import cases
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED, REFERENCE
from pytest_multiitem.servers.errors import ServerDied
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.servers.starter import Starter
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.ready import scored_request
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreClient

T = TypeVar("T")


class Run:
    """One process's view of a run. Made on first use; a project that never uses it makes none."""

    def __init__(self, settings: Settings, run_dir: Path, *, engine: Engine, owner: bool, process: str) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.engine = engine
        self.run_dir = run_dir
        self.process = process
        self.record = SampleWriter(run_dir, process)
        self._pool = ServerPool(run_dir, owner)
        self._targets: dict[tuple[Profile, str | None], Target] = {}
        self._failures: dict[Profile, MultiItemError] = {}
        self._cases: dict[tuple[str | None, int], tuple[Case, ...]] = {}
        self._planned: tuple[Profile, ...] = ()
        self._model: str | None = None
        self._starter: Starter | None = None
        self._memo: dict[Any, Any] = {}

    def plan(self, profiles: Iterable[Profile]) -> None:
        """Tell which servers the selected tests will ask for, in their order, so that they start ahead."""
        self._planned = tuple(dict.fromkeys(profiles))
        self._enter(self._planned[0].model if self._planned else None)

    def _enter(self, model: str | None) -> None:
        """Go over to another model: its servers start once those of the last one are gone."""
        self.release()
        self._model = model
        self._starter = Starter(self._pool, scored_request(self.settings.labels), at_once=cpu_count())
        if self.settings.device == "cpu":  # an accelerator holds one server at a time
            self._starter.begin(
                self._launch(profile)
                for profile in self._planned
                if profile.model == model
                and profile.backend != ATTACHED
                and self._engine_of(profile).unavailable(profile, self._settings_of(profile)) is None
            )

    def release(self) -> None:
        """Stop all servers; one that is asked for later starts anew."""
        if self._starter is not None:
            self._forget_targets()
            self._starter.close()
            self._starter = None
            self._pool.release_all()

    def _forget_targets(self) -> None:
        for target in self._targets.values():
            target.client.close()
        for known in (self._targets, self._failures, self._cases, self._memo):
            known.clear()

    def settle(self) -> None:
        """Wait until no server is starting: what is timed must not share the machine with one that is."""
        if self._starter is not None:
            self._starter.settle()

    def target(self, profile: Profile, url: str | None = None) -> Target:
        """The server of a profile: attached where a URL is given, else started once for the run.

        Raises EngineUnavailable where it cannot run here, ServerError where it does not start,
        ScoreFailure where an attached server does not answer.
        """
        if self._starter is None or profile.model != self._model:
            self._enter(profile.model)
        if profile.backend == ATTACHED:
            url = url or {"multi": self.settings.multi_url, "serial": self.settings.serial_url}.get(profile.role)
        key = (profile, url)
        if key not in self._targets:
            if profile in self._failures:
                raise self._failures[profile]
            try:
                self._targets[key] = self._connect(profile, url)
            except MultiItemError as error:
                self._failures[profile] = error
                raise
        return self._targets[key]

    def revive(self, target: Target) -> Target:
        """A server that the run started, started again: it has died, or does not answer any more.

        For measurements that record a failure and go on; everywhere else a death is final. Raises like `target`.
        """
        self._targets.pop((target.profile, None), None)
        target.client.close()
        if target.server is not None and target.server.poll() is None:
            target.server.stop()
        server = self._pool.acquire(self._launch(target.profile), scored_request(self.settings.labels), restart=True)
        self._targets[target.profile, None] = revived = self._target_of(target.profile, server)
        return revived

    def cases(self, target: Target) -> tuple[Case, ...]:
        """The requests that gates are measured on: the user's workload, or the built-in cases."""
        vocab_size = target.vocab_size or cases.ASSUMED_VOCABULARY
        key = (target.model, vocab_size)
        if key not in self._cases:
            self._cases[key] = self._read_cases(target, vocab_size)
        for case in self._cases[key]:
            if target.adapter is not None and (harm := target.adapter.hazard(target.profile, case)) is not None:
                raise EngineUnavailable(f"request {case.name!r} is not sent: {harm}")
        return self._cases[key]

    def reference(self, target: Target) -> Target:
        """The server that scores serially with transformers' own model of the served checkpoint.

        Raises EngineUnavailable where none was asked for, or it is not known which checkpoint is served.
        """
        if self.settings.reference == "none":
            raise EngineUnavailable("it compares with transformers' own model; add --reference transformers")
        if not target.owned and self.settings.model is None:
            raise EngineUnavailable(
                "it compares with transformers' own model of the served checkpoint; name that one: --model DIR"
            )
        return self.target(Profile("serial", REFERENCE, model=target.profile.model))

    def serial_at_hand(self, target: Target) -> Target | None:
        """The serial server of a server's backend and model, where the run has or plans it; none starts for this."""
        profile = Profile("serial", target.profile.backend, model=target.profile.model)
        known = profile in self._planned or (profile, None) in self._targets
        if not (known or (profile.backend == ATTACHED and self.settings.serial_url is not None)):
            return None
        try:
            return self.target(profile)
        except MultiItemError:  # its own tests say why
            return None

    def tuned_serial(self, serial: Target) -> Target | None:
        """The baseline with everything on that multi-item scoring switches off, where the engine has a launch
        profile for it and the run starts its servers."""
        if not serial.owned or not self.engine.has_tuned_serial(self.settings):
            return None
        return self.target(replace(serial.profile, tuned=True))

    def timing_case(self, target: Target, num_items: int) -> Case:
        """A request of N items for timing: seeded ids, or the items of the user's workload in turn."""
        settings = self.settings
        if settings.workload is not None:
            known = self.cases(target)
            items = [item for case in known for item in case.items]
            chosen = tuple(items[i % len(items)] for i in range(num_items))
            first = known[0]
            return Case(f"workload, {num_items} items", first.query, chosen, first.labels, first.pool)
        return self.equal_length_case(target, settings.query_tokens, num_items, settings.item_tokens)

    def equal_length_case(self, target: Target, query_tokens: int, num_items: int, item_tokens: int) -> Case:
        """A seeded request of a given shape."""
        settings = self.settings
        vocab_size = target.vocab_size or cases.ASSUMED_VOCABULARY
        return cases.equal_length_case(
            seed=settings.seed,
            query_tokens=query_tokens,
            num_items=num_items,
            item_tokens=item_tokens,
            labels=settings.labels,
            pool=_pool_of(vocab_size, (*settings.labels, settings.delimiter)),
        )

    def keep_counterexample(self, found: Counterexample) -> Path:
        """Save a counterexample in the run's directory, with the settings of the run."""
        found.settings = msgspec.convert(self.settings.records(), list[SettingRecord])
        several = len({profile for profile in self._planned if profile.role == "multi"}) > 1
        return save(self.run_dir, found, label=found.server.label if several else None)

    def once(self, key: Any, measure: Callable[[], T]) -> T:
        """Measure something that several tests share once in this process."""
        if key not in self._memo:
            self._memo[key] = measure()
        value: T = self._memo[key]
        return value

    def close(self) -> None:
        """Close connections and, in the process that owns the run, stop every server it started."""
        self._forget_targets()
        if self._starter is not None:
            self._starter.close()
        self._pool.close()

    def _connect(self, profile: Profile, url: str | None) -> Target:
        if url is not None:
            target = self._attach(profile, url)
        elif profile.backend == ATTACHED:
            option = {"multi": "--multi-url", "serial": "--serial-url"}.get(profile.role)
            hint = f"give {option} as well" if option else "this gate needs servers started by the run"
            raise EngineUnavailable(f"no {profile.role} server is attached; {hint}")
        else:
            target = self._start(profile)
        self.record(
            {
                "kind": "server",
                "label": target.profile.label,
                "url": target.url,
                "owned": target.owned,
                "command": [] if target.server is None else redacted_command(self._launch(profile).command),
                "log": None if target.server is None else str(target.server.log_path),
                "info": redacted(dict(target.info)) or None,
                "packages": dict(target.adapter.packages(self.settings)) if target.adapter is not None else {},
            }
        )
        return target

    def _attach(self, profile: Profile, url: str) -> Target:
        api_key = os.environ.get(self.settings.api_key_env)
        ca_file = self.settings.ca_file
        client = ScoreClient(url, timeout=self.settings.request_timeout, api_key=api_key, ca_file=ca_file)
        info = client.server_info() or {}
        if profile.role == "multi":
            told = info.get("multi_item_mask_impl")
            mask = told if profile.mask_impl == ATTACHED else profile.mask_impl
            semantics = self.settings.semantics
            if self.settings.origins.get("semantics") == "default":
                semantics = (info.get("semantics") or {}).get("declared", semantics)
            if semantics not in [s.value for s in Semantics if s.has_serial_reference]:
                raise UsageError(
                    f"{url} declares the semantics {semantics!r}, which equals no serial scoring; "
                    "name what it should be compared with: --multiitem-semantics prefix_first_delim or query_prefix"
                )
            profile = Profile(
                "multi",
                ATTACHED,
                mask if isinstance(mask, str) else None,
                info.get("multi_item_scoring_chunk_size"),
                Semantics(semantics),
            )
        else:
            profile = Profile(profile.role, ATTACHED)
        timeout = self.settings.request_timeout
        scored_request(self.settings.labels, api_key=api_key, ca_file=ca_file, timeout=timeout)(url)
        known = self.settings.origins.get("engine", "default") != "default"
        return Target(
            profile,
            self.engine.name if known else ATTACHED,
            client,
            adapter=self.engine if known else None,
            assumed_vocab_size=self.settings.vocab_size,
        )

    def _start(self, profile: Profile) -> Target:
        engine, settings = self._engine_of(profile), self._settings_of(profile)
        reason = engine.unavailable(profile, settings)
        if reason is not None:
            raise EngineUnavailable(reason)
        try:
            assert self._starter is not None  # target() has entered the profile's model
            server = self._starter.server(self._launch(profile))
        except ServerDied as death:
            if (refusal := engine.refusal(death.log_tail)) is not None:
                raise EngineUnavailable(f"{engine.name} refused to start: {refusal}") from None
            raise
        return self._target_of(profile, server)

    def _target_of(self, profile: Profile, server: RunningServer) -> Target:
        engine, settings = self._engine_of(profile), self._settings_of(profile)
        return Target(
            profile,
            engine.name,
            ScoreClient(server.url, timeout=settings.request_timeout),
            server,
            adapter=engine,
            assumed_vocab_size=settings.vocab_size,
            asked=engine.asked(profile, settings),
        )

    def _engine_of(self, profile: Profile) -> Engine:
        """The engine under test; the reference is always the embedded server."""
        return EMBEDDED if profile.backend == REFERENCE else self.engine

    def _settings_of(self, profile: Profile) -> Settings:
        """The settings of a server's launch; the reference computes in float32, wherever it can."""
        if profile.backend != REFERENCE:
            return self.settings
        device = "cpu" if self.settings.device == "cpu" else "auto"
        return replace(self.settings, dtype="float32", device=device, serial_profile=None, serial_port=None)

    def _launch(self, profile: Profile) -> LaunchSpec:
        return self._engine_of(profile).launch(profile, self._settings_of(profile))

    def _read_cases(self, target: Target, vocab_size: int) -> tuple[Case, ...]:
        settings = self.settings
        if settings.workload is None:
            return cases.built_in_cases(
                seed=settings.seed,
                labels=settings.labels,
                delimiter=settings.delimiter,
                vocab_size=vocab_size,
                empty_item=target.adapter is not None and target.adapter.allows_empty_items,
            )
        return cases.read_workload(
            settings.workload,
            encode=target.encode,
            labels=settings.labels,
            delimiter=settings.delimiter,
            vocab_size=vocab_size,
        )


@cache
def _pool_of(vocab_size: int, excluded: tuple[int, ...]) -> tuple[int, ...]:
    return cases.token_pool(vocab_size, excluded)
