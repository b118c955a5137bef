"""Who is compared: for every backend and view one server, started from a launch profile or attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.adapters.profiles import read_profiles
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import Served, attach, attach_ready, client_of, is_stated
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target
from pytest_multiitem.traffic.encoding import generated_tokenizer
from pytest_multiitem.untrusted.secrets import redacted_command

#: Launch profiles of backends that have one for both views; for other backends, each view has its own.
_PROFILES = {"pytorch": "{engine}-multi-frozen"}


@dataclass
class Side:
    """One server of the comparison, and the views that it stands in: a frozen one stands in both.

    ``settings``: the run's, with the view's launch profile laid over them. ``url``: of a server that already runs.
    ``stated``: what its user says of it, for its matrix.
    """

    backend: str
    views: tuple[str, ...]
    settings: Settings
    engine: Engine
    profile: Profile
    url: str | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: which side this is."""
        return f"{self.backend} {'+'.join(self.views)}"

    def executes(self, size: int) -> tuple[object, ...] | None:
        """What a request of ``size`` items makes the server compute, as far as that is known before: sides with equal
        answers are told apart by their server chunk size alone, and it splits no such request on either.

        None where it is not known: of a server that already runs, and of a request that is split.
        """
        chunk = self.profile.chunk_size
        if self.url is not None or (chunk and size > chunk):
            return None
        whole = replace(self, profile=replace(self.profile, chunk_size=0))
        return (self.backend, _launch(whole), size)

    @property
    def cost_per_hour(self) -> float | None:
        """US dollars an hour; None where nobody said."""
        prices = dict(self.settings.cost_per_hour)
        return prices.get(self.backend, prices.get(""))


def sides_of(settings: Settings, engine: Engine) -> list[Side]:
    """The sides that the settings ask for; one that would be the same server in two views stands once.

    Raises UsageError for settings that no side can have.
    """
    check_settings(settings)
    addresses = dict(settings.compare_urls)
    sides: list[Side] = []
    for view in settings.views:
        for backend in settings.backend:
            url = addresses.get(f"{backend}@{view}", addresses.get(backend))
            if url is None and (addresses or backend not in engine.backends):
                continue
            side = _side(settings, engine, backend, view, url)
            same = next((s for s in sides if (s.profile, s.url, s.backend) == (side.profile, url, backend)), None)
            if same is not None and (url is not None or _launch(same) == _launch(side)):
                same.views += side.views
            else:
                sides.append(side)
    return sides


def missing(settings: Settings, sides: Sequence[Side]) -> dict[str, str]:
    """Backends that were asked for and that no side stands for, with the reason."""
    there = {side.backend for side in sides}
    return {
        backend: f"no server of {backend} was given to --multiitem-compare-urls"
        if settings.compare_urls
        else f"engine {settings.engine} has no {backend}"
        for backend in settings.backend
        if backend not in there
    }


def with_served_delimiter(settings: Settings, sides: Sequence[Side]) -> Settings:
    """The settings with the delimiter that the attached servers say they pack with: the workload leaves it out, and the
    serial references stand behind it.

    Raises UsageError where two of them differ, or one is another server than the settings say.
    """
    declared: dict[int, str] = {}
    for side in sides:
        if side.url is not None:
            with client_of(side.url, side.settings) as client:
                target = attach(side.profile.role, client, side.settings, side.engine)
            if Served.read(target.info).delimiter is not None:
                declared.setdefault(target.delimiter, side.label)
    if len(declared) > 1:
        packed = ", ".join(f"{label} with {delimiter}" for delimiter, label in declared.items())
        raise UsageError(
            f"the servers pack with different delimiters ({packed}); a workload is for one: start them alike"
        )
    return replace(settings, delimiter=next(iter(declared))) if declared else settings


def served_directory(settings: Settings, sides: Sequence[Side]) -> str | None:
    """Where the tokenizer of the served model may lie: in the directory that an attached server names, else in that of
    the checkpoint that is generated for servers that are started."""
    for side in sides:
        if side.url is not None:
            with client_of(side.url, side.settings) as client:
                return attach(side.profile.role, client, side.settings, side.engine).model
    return generated_tokenizer(settings)


class Connected:
    """A side's server while it is measured."""

    def __init__(self, side: Side, directory: Path) -> None:
        self.side = side
        self._run: Run | None = None
        if side.url is None:
            self._run = Run(side.settings, directory, engine=side.engine, owner=True, process="main")
            self._run.plan([side.profile])

    def open(self) -> Target:
        """The server, ready.

        Raises EngineUnavailable, ServerError or ScoreFailure, and UsageError where an attached one is, by its own word,
        another one than the settings say.
        """
        side = self.side
        if self._run is not None:
            self.target = self._run.target(side.profile)
        else:
            assert side.url is not None
            self.target = attach_ready(side.profile.role, side.url, side.settings, side.engine)
        return self.target

    def revive(self, *, unresponsive: bool) -> None:
        """Start a server again that the comparison owns and that has ended, or that is ``unresponsive``."""
        server = self.target.server
        if self._run is not None and server is not None and (unresponsive or server.poll() is not None):
            self.target = self._run.revive(self.target)

    def close(self) -> None:
        """Close the connection, and stop the server if the comparison started it."""
        if self._run is not None:
            self._run.close()
        elif hasattr(self, "target"):
            self.target.client.close()


def serial_of(side: Side) -> Side:
    """The serial baseline of a side, on the same backend. Raises EngineUnavailable where none can be had."""
    serial = replace(side, profile=Profile("serial", side.backend))
    if side.url is None:
        return replace(serial, views=("serial",))
    if side.settings.serial_url is None:
        raise EngineUnavailable("the server is attached, and no serial one of it is: --serial-url")
    return replace(serial, url=side.settings.serial_url)


def describe(matrix: ScoreMatrix, connected: Connected) -> None:
    """Fill in what a matrix says of its side: machine, server, versions, price. No key or password is in it."""
    side, target = connected.side, connected.target
    matrix.server_config = {
        "engine": target.engine,
        "url": target.url,
        "started_by_this_run": target.owned,
        "server_chunk_size": target.profile.chunk_size,
        "info": {k: v for k, v in target.info.items() if k != "executed"} or None,
        **side.stated,
    }
    if target.owned:
        launched = {"command": redacted_command(_launch(side)), "launch_profile": side.settings.multi_profile}
        matrix.server_config |= launched
    matrix.hardware = {**machine_info(), "device": target.info.get("device", side.settings.device)}
    matrix.engine, matrix.model, matrix.dtype = target.engine, target.model, target.dtype
    matrix.semantics = None if target.profile.semantics is None else target.profile.semantics.value
    matrix.mask_requested = target.profile.mask_impl
    matrix.versions = {**package_versions(), **(target.adapter.packages(side.settings) if target.adapter else {})}
    matrix.cost_per_hour_usd = side.cost_per_hour


def check_settings(settings: Settings) -> None:
    """Raises UsageError for what cannot be compared."""
    for name, words in (("mask_impl", "mask implementation"), ("server_chunk_size", "server chunk size")):
        if len(getattr(settings, name)) > 1 and is_stated(settings, name):
            raise UsageError(
                f"{name}={settings.shown(name)} ({settings.origins[name]}): a side of the comparison runs one {words}; "
                "give one, or none to take the view's own"
            )
    if settings.models:
        raise UsageError("--models: the comparison is of one model; give --model, and compare one after the other")
    if settings.multi_url is not None:
        raise UsageError(
            "--multi-url does not say which side the server is; name it: --multiitem-compare-urls "
            f"{settings.backend[0]}={settings.multi_url}"
        )
    unknown = {side.partition("@")[0] for side, _ in settings.compare_urls} - set(settings.backend)
    if unknown:
        raise UsageError(f"--multiitem-compare-urls names {', '.join(sorted(unknown))}, which --backend leaves out")


def _side(settings: Settings, engine: Engine, backend: str, view: str, url: str | None) -> Side:
    if settings.multi_profile is None:
        own = f"{{engine}}-{view.replace('_', '-')}"
        name = _PROFILES.get(backend, own).format(engine=engine.name)
        if url is None and name in read_profiles(settings.profiles):
            settings = replace(settings, multi_profile=name)
    # What is fitted to one backend's servers alone starts at the profile's own port.
    attached = url is not None
    origins = {**settings.origins, **({"backend": "--multiitem-compare-urls"} if attached else {})}
    settings = engine.fit(replace(settings, backend=(backend,), multi_url=url, origins=origins))
    mask, chunk_size = (None, None) if attached else (settings.mask_impl[0], settings.server_chunk_size[0])
    profile = Profile("multi", backend, mask, chunk_size, Semantics(settings.semantics))
    return Side(backend, (view,), settings, engine, profile, url)


def _launch(side: Side) -> tuple[str, ...]:
    """The command of a side's server."""
    return side.engine.launch(side.profile, side.settings).command
