"""What an engine adapter provides, and all adapters by name; an adapter is one module beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pytest_multiitem import adapters
from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.errors import Origin, UsageError
from pytest_multiitem.registry import Registry, modules_of
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ALL, REFERENCE
from pytest_multiitem.servers.process import LaunchSpec
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.transport.client import ScoreClient

Role = Literal["multi", "serial", "extend"]
#: What roles are called in messages.
ROLE_WORDS: Mapping[Role, str] = {"multi": "multi-item", "extend": "prefill+extend", "serial": "serial"}


@dataclass(frozen=True)
class Profile:
    """A server that a test asks for.

    ``role``: packed multi-item scoring, the serial baseline, or prefill+extend. ``mask_impl`` and
    ``chunk_size`` (items per packed sequence, 0 = all): of the multi role only. ``semantics``: what
    the server is declared to compute; None for the serial role. ``model``: one of a model matrix.
    ``tuned``: a serial baseline with everything on that multi-item scoring switches off.
    """

    role: Role
    backend: str
    mask_impl: str | None = None
    chunk_size: int | None = None
    semantics: Semantics | None = None
    model: str | None = None
    tuned: bool = False

    @property
    def label(self) -> str:
        """For people: which server this is."""
        chunk = f"chunk {self.chunk_size}" if self.chunk_size else None
        model = None if self.model is None else model_name(self.model)
        words = ("tuned" if self.tuned else None, ROLE_WORDS[self.role], self.backend, self.mask_impl, chunk, model)
        return " ".join(word for word in words if word is not None)

    def origin(self, *, answered: bool = True) -> Origin:
        """Whose failure one of this server is."""
        return Origin("reference" if self.backend == REFERENCE else self.role, self.backend, answered)


def model_name(model: str) -> str:
    """What a model is called in tables: the last part of its path or hub id."""
    return model.rstrip("/").rpartition("/")[2]


def role_of(info: Mapping[str, Any]) -> Role | None:
    """The role of a server by its own word, its ``/get_server_info``; None where it does not tell."""
    if info.get("multi_item_enable_prefill_extend"):
        return "extend"
    if info.get("multi_item_scoring_delimiter") is not None or info.get("enable_mis"):
        return "multi"
    return "serial" if "multi_item_scoring_delimiter" in info or "enable_mis" in info else None


@dataclass(frozen=True)
class Neighbour:
    """A request to another endpoint than scoring that such servers are sent beside it. ``body``: of a POST."""

    path: str
    body: Mapping[str, Any] | None = None

    def ask(self, client: ScoreClient) -> None:
        """Send it; whatever comes back is its own affair. Raises ScoreFailure where nothing does."""
        if self.body is None:
            client.get(self.path)
        else:
            client.post(self.path, self.body)


class Engine:
    """How one kind of server is started, what it can do, and what is known of it. Subclass it.

    ``backends`` and ``masks``: its names for what it can run; the settings must choose from them.
    ``allows_empty_items``: whether an item without tokens may be sent. ``withstands_bad_requests``: whether a request
    that no server can score (too long, or with the delimiter inside an item) may be sent, and does not end it.
    ``serves_heads``: whether its launch profiles serve a model with a classification head as they are.
    ``neighbours``: requests that may be sent beside score requests. ``flushes_cache``: whether ``/flush_cache`` is one.
    ``client``: asks its servers on their own wire. ``modes``: the ways to ask for scores that they have, where they do
    not say. ``packs_nothing``: why items of one request never stand in one sequence; None where they may.
    ``most_labels``: over which it can take one softmax; None: as many as there are. ``bitwise``: whether it promises
    that a score in float32 has the same bits whatever else is in its request, or runs beside it.
    """

    name: str = ""
    backends: tuple[str, ...] = ("pytorch", "jax")
    masks: tuple[str, ...] = ("dense", "segment", "auto")
    allows_empty_items: bool = False
    withstands_bad_requests: bool = False
    serves_heads: bool = False
    neighbours: tuple[Neighbour, ...] = ()
    flushes_cache: bool = False
    client: type[ScoreClient] = ScoreClient
    modes: tuple[ModeName, ...] = ()
    packs_nothing: str | None = None
    most_labels: int | None = None
    bitwise: bool = False

    def fit(self, settings: Settings) -> Settings:
        """The settings of a run with this engine: its backends and masks where the user chose none.

        Raises UsageError for a backend or a mask that was chosen and that it does not have, and without an address
        where it starts no server.
        """
        if type(self).launch is Engine.launch and not attaches(settings):
            raise UsageError(
                f"engine {self.name} starts no server; give the addresses of servers that run: --multi-url URL and "
                "--serial-url URL"
            )
        settings = self.with_own_names(settings)
        for name, possible in self._own.items():
            chosen = getattr(settings, name)
            if settings.origins.get(name, "default") != "default":
                settings.check_names(name, chosen, (*possible, ALL), f": engine {self.name} has no other")
            elif not set(chosen) <= set(possible):
                settings = self._choose(settings, name, tuple(word for word in chosen if word in possible))
        return settings

    def with_own_names(self, settings: Settings) -> Settings:
        """The settings with this engine's backends and masks for ``all``, and for a default of which it has none."""
        for name, possible in self._own.items():
            chosen, origin = getattr(settings, name), settings.origins.get(name, "default")
            if chosen == (ALL,):
                settings = self._choose(settings, name, possible, origin)
            elif origin == "default" and not set(chosen) & set(possible):
                settings = self._choose(settings, name, possible)
        return settings

    def _choose(self, settings: Settings, name: str, names: tuple[str, ...], origin: str | None = None) -> Settings:
        changed: dict[str, Any] = {name: names}
        return replace(settings, **changed, origins={**settings.origins, name: origin or f"engine {self.name}"})

    @property
    def _own(self) -> dict[str, tuple[str, ...]]:
        return {"backend": self.backends, "mask_impl": self.masks}

    def elsewhere(self, *, python: str | None = None, checkout: Path | None = None) -> Self:
        """This engine as another interpreter runs it, or from the sources of a checkout; what else the settings say
        holds. Raises UsageError where it has no such thing."""
        word = "python=" if checkout is None else "checkout="
        raise UsageError(
            f"engine {self.name} is not started from launch profiles, so {word} cannot vary it; give the addresses of "
            "servers that run already: url=URL"
        )

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """Why such a server cannot run here, and what to do about it; None where it can."""
        return None

    def check_storage(self, settings: Settings) -> None:
        """Raises UsageError where what such servers keep on disk, beside their logs, could not be kept there."""

    def launch(self, profile: Profile, settings: Settings) -> LaunchSpec:
        """The command that starts such a server. Raises EngineUnavailable. An engine that has no such method is
        attached only, and `fit` refuses settings without an address."""
        raise NotImplementedError(f"engine {self.name!r} starts no server")

    def asked(self, profile: Profile, settings: Settings) -> Mapping[str, Any]:
        """The arguments of a launch, by the names under which the server tells them."""
        return {}

    def has_tuned_serial(self, settings: Settings) -> bool:
        """Whether there is a serial baseline with everything on that multi-item scoring switches off."""
        return False

    def refusal(self, log: str) -> str | None:
        """Why the engine itself refused to start, from the end of its log; None for any other death."""
        return None

    def attest(self, profile: Profile, info: Mapping[str, Any], log: Path | None) -> Attestation:
        """What a server without ``executed`` counters runs, from its ``/get_server_info`` and its log."""
        return Attestation()

    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """The modes that a server speaks which does not name them itself, by what it says in ``/get_server_info``;
        none where that is not known."""
        return ()

    def hazard(self, profile: Profile, case: Case) -> str | None:
        """Why a request is known to harm such a server, and so must not be sent; None where it may be."""
        return None

    def known_issue(self, model: str) -> str | None:
        """Why a model is known to fail on this engine; None where nothing is known."""
        return None

    def version(self, settings: Settings) -> str | None:
        """The engine's version, before any server of it has started; None where it is not known."""
        return None

    def packages(self, settings: Settings) -> Mapping[str, str]:
        """Versions in the engine's own environment; empty where it is this interpreter's."""
        return {}


def attaches(settings: Settings) -> bool:
    """Whether the run is given a server that runs already."""
    return bool(settings.multi_url or settings.serial_url)


def _shipped() -> Iterator[Engine]:
    for module in modules_of(adapters):
        engine = getattr(module, "ENGINE", None)
        if isinstance(engine, Engine):
            yield engine


#: Every adapter: those that ship (a module here that defines ``ENGINE``), and those that a project adds.
ENGINES = Registry("engine", _shipped)


def choose_engine(name: str) -> Engine:
    """The adapter called ``name``. Raises UsageError listing those that exist."""
    return ENGINES.choose(name)


def known_backends() -> tuple[str, ...]:
    """The backends of all engines, in the order in which engines name them."""
    return tuple(dict.fromkeys(backend for engine in ENGINES.all().values() for backend in engine.backends))


def check_backends(settings: Settings) -> None:
    """Raises UsageError for a backend that a comparison's options name and that no engine has."""
    known = known_backends()
    settings.check_names("backend", settings.backend, (*known, ALL))
    settings.check_names("compare_urls", [side.partition("@")[0] for side, _ in settings.compare_urls], known)
    settings.check_names("cost_per_hour", [backend for backend, _ in settings.cost_per_hour if backend], known)
