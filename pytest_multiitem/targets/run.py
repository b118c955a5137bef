"""What a test process needs to measure: its servers, started once or attached, and where raw samples go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.results.counterexample import Counterexample, save
from pytest_multiitem.results.machine import cpu_count
from pytest_multiitem.results.records import SettingRecord
from pytest_multiitem.results.store import SampleWriter
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED, REFERENCE
from pytest_multiitem.servers.errors import ServerDied, ServerError
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.servers.starter import Starter
from pytest_multiitem.settings.attached import has_serial
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import attach_ready
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.targets.one_server import serial_side
from pytest_multiitem.targets.ready import ScoredRequest
from pytest_multiitem.targets.requests import Requests
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreFailure
from pytest_multiitem.untrusted.secrets import redacted_command

#: The serial server that the settings name.
SERIAL = Profile("serial", ATTACHED)


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
        self._ready, self._reference_ready = (
            ScoredRequest(
                settings.labels, delimiter=settings.delimiter, within=settings.startup_timeout, client=each.client
            )
            for each in (engine, EMBEDDED)
        )
        self._targets: dict[tuple[Profile, str | None], Target] = {}
        self._failures: dict[tuple[Profile, str | None], MultiItemError] = {}
        self._requests = Requests(settings)
        self.cases = self._requests.cases
        self.timing_case = self._requests.timing_case
        self.timing_cases = self._requests.timing_cases
        self.benchmark_cases = self._requests.benchmark_cases
        self.equal_length_case = self._requests.equal_length_case
        self._planned: tuple[Profile, ...] = ()
        self._model: str | None = None
        self._starter: Starter | None = None

    def plan(self, profiles: Iterable[Profile]) -> None:
        """Tell which servers the selected tests will ask for, in their order, so that they start ahead.

        Raises UsageError where these could not keep what they need on disk.
        """
        self._planned = tuple(dict.fromkeys(profiles))
        if any(profile.backend != ATTACHED for profile in self._planned):
            self.engine.check_storage(self.settings)
        self._enter(self._planned[0].model if self._planned else None)

    def _enter(self, model: str | None) -> None:
        """Go over to another model: its servers start once those of the last one are gone."""
        self.release()
        self._model = model
        self._starter = Starter(self._pool, self._ready, at_once=cpu_count())
        if self.settings.device == "cpu":  # an accelerator holds one server at a time
            own = [profile for profile in self._planned if profile.model == model and profile.backend != ATTACHED]
            self._starter.begin(self._launch(profile) for profile in own if self._unavailable(profile) is None)

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
        for known in (self._targets, self._failures, self._requests):
            known.clear()

    def settle(self) -> None:
        """Wait until no server is starting: what is timed must not share the machine with one that is."""
        if self._starter is not None:
            self._starter.settle()

    def target(self, profile: Profile, url: str | None = None) -> Target:
        """The server of a profile: attached where a URL is given, else started once for the run.

        Raises EngineUnavailable where it cannot run here, ServerError where it does not start,
        ScoreFailure where an attached server does not answer, UsageError where it is another one than the user says.
        """
        if self._starter is None or profile.model != self._model:
            self._enter(profile.model)
        if profile.backend == ATTACHED:
            if profile.role == "extend" and url is None and self.settings.multi_url is not None:
                multi = self.target(self._attached[0])
                if multi.profile.role == "extend":
                    return multi
            url = url or {"multi": self.settings.multi_url, "serial": self.settings.serial_url}.get(profile.role)
        key = (profile, url)
        if key not in self._targets:
            if key in self._failures:
                raise self._failures[key]
            try:
                self._targets[key] = self._connect(profile, url)
            except MultiItemError as error:
                error.origin = profile.origin(answered=False)
                self._failures[key] = error
                raise
        return self._targets[key]

    def beside(self, profile: Profile) -> Target:
        """A server of another model than that of the tests, beside those. Raises as `target`; EngineUnavailable on an
        accelerator, which holds one server at a time."""
        if self.settings.device != "cpu":
            raise EngineUnavailable(
                f"a second model needs a server beside the first; --device is {self.settings.device}"
            )
        key = (profile, None)
        if key not in self._targets:
            try:
                if (reason := self._unavailable(profile)) is not None:
                    raise EngineUnavailable(reason)
                server = self._pool.acquire(self._launch(profile), self._ready)
            except MultiItemError as error:
                error.origin = profile.origin(answered=False)
                raise
            self._targets[key] = self._target_of(profile, server)
            self._ready.hand_over(self._targets[key])
        return self._targets[key]

    @property
    def connected(self) -> list[Target]:
        """The servers that this process has asked for so far."""
        return list(self._targets.values())

    @property
    def delimiter(self) -> int:
        """The token that separates items in this run: the attached multi-item server's own word, else the setting."""
        if self.settings.multi_url is None:
            return self.settings.delimiter
        try:
            return self.target(self._attached[0]).delimiter
        except MultiItemError:  # its own tests say why
            return self.settings.delimiter

    def attach(self) -> None:
        """Attach to the servers that the settings name, and see whether the user's workload can be sent, before
        anything is measured.

        Raises UsageError where a server is, by its own word, another one than the user says, and where it cannot be
        asked at all; also for a workload that cannot be read. A server that answers wrongly is told by the tests that
        need it.
        """
        for profile in self._attached:
            try:
                self.cases(self.target(profile))
            except EngineUnavailable:
                continue
            except (ServerError, ScoreFailure) as error:
                if is_nobodys(error):
                    raise UsageError(error.message if isinstance(error, ScoreFailure) else str(error)) from None

    @property
    def _attached(self) -> list[Profile]:
        """The servers that the settings name by address, as the tests ask for them."""
        settings = self.settings
        masks = settings.mask_impl if settings.origins["mask_impl"] != "default" else (ATTACHED,)
        semantics = Semantics(settings.semantics)
        multi = [Profile("multi", ATTACHED, mask, 0, semantics) for mask in masks if settings.multi_url is not None]
        return [*multi, SERIAL] if has_serial(settings) else multi

    def revive(self, target: Target) -> Target:
        """A server that the run started, started again: it has died, or does not answer any more.

        For measurements that record a failure and go on; everywhere else a death is final. Raises like `target`.
        """
        self._targets.pop((target.profile, None), None)
        target.client.close()
        if target.server is not None and target.server.poll() is None:
            target.server.stop()
        ready = self._ready_of(target.profile)
        server = self._pool.acquire(self._launch(target.profile), ready, restart=True)
        self._targets[target.profile, None] = revived = self._target_of(target.profile, server)
        revived.take_over(target)
        ready.hand_over(revived)
        return revived

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
        if not (known or (profile.backend == ATTACHED and has_serial(self.settings))):
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

    def keep_counterexample(self, example: Counterexample) -> Path:
        """Save a counterexample in the run's directory, with the settings of the run."""
        example.settings = msgspec.convert(self.settings.records(), list[SettingRecord])
        several = len({profile for profile in self._planned if profile.role == "multi"}) > 1
        return save(self.run_dir, example, label=example.server.label if several else None)

    def close(self) -> None:
        """Close connections and, in the process that owns the run, stop every server it started."""
        self._forget_targets()
        if self._starter is not None:
            self._starter.close()
        self._pool.close()

    def _connect(self, profile: Profile, url: str | None) -> Target:
        if url is None and profile == SERIAL and self.settings.one_server and self.settings.multi_url is not None:
            target = serial_side(self.target(self._attached[0]), self.settings)
        elif url is not None:
            target = self._attach(profile, url)
        elif profile.backend == ATTACHED:
            option = {"multi": "--multi-url", "serial": "--serial-url"}.get(profile.role)
            hint = f"give {option} as well" if option else "give one as --multi-url, or let the run start its servers"
            words = {"extend": "server that runs prefill+extend"}.get(profile.role, f"{profile.role} server")
            raise EngineUnavailable(f"no {words} is attached; {hint}")
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
                "info": dict(target.info) or None,
                "packages": dict(target.adapter.packages(self.settings)) if target.adapter is not None else {},
            }
        )
        return target

    def _attach(self, profile: Profile, url: str) -> Target:
        """An attached server; what a test's own factory says of it counts as what the user says."""
        settings = replace(self.settings, delimiter=self.delimiter) if profile.role == "serial" else self.settings
        given: dict[str, Any] = {}
        if profile.role == "multi":
            if profile.mask_impl not in (None, ATTACHED):
                given["mask_impl"] = (profile.mask_impl,)
            if profile.chunk_size:
                given["server_chunk_size"] = (profile.chunk_size,)
            if profile.semantics not in (None, settings.semantics):
                given["semantics"] = profile.semantics
        origins = {name: settings.origins[name] for name in given if settings.origins[name] != "default"}
        origins = {**settings.origins, **dict.fromkeys(given, "the test's server factory"), **origins}
        settings = replace(settings, **given, origins=origins)
        target = attach_ready(profile.role, url, settings, self.engine)
        target.profile = replace(target.profile, backend=ATTACHED)
        return target

    def _start(self, profile: Profile) -> Target:
        if (reason := self._unavailable(profile)) is not None:
            raise EngineUnavailable(reason)
        try:
            assert self._starter is not None  # target() has entered the profile's model
            server = self._starter.server(self._launch(profile), self._ready_of(profile))
        except ServerDied as death:
            engine, _ = self._launcher(profile)
            if (refusal := engine.refusal(death.log_tail)) is not None:
                raise EngineUnavailable(f"{engine.name} refused to start: {refusal}") from None
            raise
        target = self._target_of(profile, server)
        self._ready_of(profile).hand_over(target)
        return target

    def _ready_of(self, profile: Profile) -> ScoredRequest:
        return self._reference_ready if profile.backend == REFERENCE else self._ready

    def _target_of(self, profile: Profile, server: RunningServer) -> Target:
        engine, settings = self._launcher(profile)
        return Target(
            profile,
            engine.name,
            engine.client(server.url, timeout=settings.request_timeout),
            server,
            adapter=engine,
            assumed_vocab_size=settings.vocab_size,
            asked=engine.asked(profile, settings),
            delimiter=settings.delimiter if settings.multi_url is None else self.delimiter,
        )

    def _launcher(self, profile: Profile) -> tuple[Engine, Settings]:
        """The engine under test and the settings of a server's launch; the reference is always the embedded server, and
        computes in float32, wherever it can."""
        if profile.backend != REFERENCE:
            return self.engine, self.settings
        device = "cpu" if self.settings.device == "cpu" else "auto"
        settings = replace(self.settings, dtype="float32", device=device, serial_profile=None, serial_port=None)
        return EMBEDDED, settings

    def _unavailable(self, profile: Profile) -> str | None:
        engine, settings = self._launcher(profile)
        return engine.unavailable(profile, settings)

    def _launch(self, profile: Profile) -> LaunchSpec:
        engine, settings = self._launcher(profile)
        return engine.launch(profile, settings)
