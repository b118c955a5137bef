"""Engines that are started by a launch profile: the profile and the run's settings become a command line."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Self

from pytest_multiitem.adapters import profiles
from pytest_multiitem.adapters.base import Engine, Profile, Role, attaches, choose_engine
from pytest_multiitem.adapters.installed import Installed, inspect
from pytest_multiitem.adapters.profiles import Flags, LaunchProfile, Layer, launch_profile, profile_name, read_profiles
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.process import LaunchSpec
from pytest_multiitem.settings.settings import Settings

#: Settings that a launch profile names by their own names.
_FILLED_IN = (
    "dtype", "device", "delimiter", "segment_threshold",
    "extend_batch_size", "extend_max_running_requests", "extend_precompile_bs_paddings",
)  # fmt: skip
#: How a program says that it does not take its arguments: argparse and pydantic in their own forms, others by what they
#: raise. A crash (RuntimeError, MemoryError, a signal) is no refusal, nor is a machine that is too small.
_REFUSED = re.compile(
    r"^(?:[\w.\- ]+: error: (?P<argparse>\S.*)"
    r"|\s*Value error, (?P<pydantic>.+?)(?: \[type=.*)?"
    r"|(?:.*[\s\]])?(?:\w+\.)*(?P<raised>(?:Value|Assertion|NotImplemented|Import|ModuleNotFound)\w*Error: .+))$",
    re.MULTILINE,
)
_TOO_SMALL = re.compile(r"\bmemory\b|\bOOM\b", re.IGNORECASE)


class LaunchedEngine(Engine):
    """An engine whose servers are started from launch profiles."""

    #: Environment variables of every server of this engine.
    environment: Mapping[str, str] = {}
    #: The engine's import name.
    package: str
    #: Where the package's sources lie that servers run instead of those that are installed; None: what is installed.
    root: Path | None = None
    #: What guards an environment: neither the directory of the run nor this interpreter's path may shadow its modules.
    guarded: Mapping[str, str] = {"PYTHONSAFEPATH": "1", "PYTHONPATH": ""}
    #: What is laid over the launch profiles, by role: a variant of a profile matrix; None: this is no variant.
    layers: Mapping[Role, Layer] | None = None

    def fit(self, settings: Settings) -> Settings:
        """The profiles in use have a say as well."""
        return super().fit(profiles.with_profile_defaults(settings, self.name))

    def fit_to_show(self, settings: Settings) -> Settings:
        """As `fit`, for a command line that is only shown: its engine need not be installed."""
        return self.fit(settings)

    def elsewhere(self, *, python: str | None = None, checkout: Path | None = None) -> Self:
        """A copy whose servers run in an environment of their own, and from a checkout's sources where one is given."""
        other = copy.copy(self)
        if checkout is not None:
            other.root = self._sources_in(checkout)
        other.environment = {**self.environment, **self.guarded}
        if other.root is not None:
            other.environment = {**other.environment, "PYTHONPATH": str(other.root)}
        return other

    def varied(self, layers: Mapping[Role, Layer]) -> Self:
        """A copy that lays flags and environment over the launch profiles; what its servers raise before they answer
        counts as a refusal of these."""
        other = copy.copy(self)
        other.layers = layers
        return other

    def refusal(self, log: str) -> str | None:
        """What the server of a variant says when it does not take its arguments."""
        if self.layers is None:
            return None
        found = [next(filter(None, words.groups())) for words in _REFUSED.finditer(log)]
        return found[-1].strip() if found and not _TOO_SMALL.search(found[-1]) else None

    def _sources_in(self, checkout: Path) -> Path:
        """The directory of a checkout from which the package is imported, by the usual layouts."""
        for place in (checkout, checkout / "python", checkout / "src"):
            if (place / self.package / "__init__.py").is_file():
                return place.resolve()
        raise UsageError(
            f"{checkout} is no checkout of {self.name}: expected {self.package}/__init__.py in it, in python/ or in "
            "src/; name the directory that was cloned: checkout=DIR"
        )

    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """The command before the profile's flags: interpreter and module."""
        raise NotImplementedError

    def chosen_flags(self, launch: LaunchProfile, settings: Settings) -> Flags:
        """The alternative of a profile that the installed version can express. Raises EngineUnavailable."""
        return launch.alternatives()[0]

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """An engine need not have every role."""
        name = profile_name(settings, self.name, profile.role)
        if name not in read_profiles(settings.profiles):
            return f"engine {self.name} has no launch profile for {profile.role} servers ({name})"
        return None

    def asked(self, profile: Profile, settings: Settings) -> Mapping[str, Any]:
        """The flags that the launch gives, with the run's values filled in."""
        flags = profiles.filled(self._flags(profile, settings), _values(profile, settings))
        return {name.replace("-", "_"): value for name, value in flags.items()}

    def has_tuned_serial(self, settings: Settings) -> bool:
        """Where there is a launch profile for it."""
        return self._tuned in read_profiles(settings.profiles)

    @property
    def _tuned(self) -> str:
        return f"{self.name}-serial-tuned"

    def launch_profile(self, profile: Profile, settings: Settings) -> LaunchProfile:
        """The launch profile that the settings choose for a role, with the variant's layer over it."""
        return self._unvaried(profile, settings).insisting((self.layers or {}).get(profile.role, Layer()))

    def _unvaried(self, profile: Profile, settings: Settings) -> LaunchProfile:
        name = self._tuned if profile.tuned else profile_name(settings, self.name, profile.role)
        return launch_profile(name, device=settings.device, own=settings.profiles)

    def arguments(self, profile: Profile, settings: Settings) -> list[str]:
        """The launch profile's flags with the run's values filled in."""
        return profiles.arguments(self._flags(profile, settings), _values(profile, settings))

    def _flags(self, profile: Profile, settings: Settings) -> Flags:
        return self.chosen_flags(self.launch_profile(profile, settings), settings)

    def launch(self, profile: Profile, settings: Settings) -> LaunchSpec:
        """The command that listens on a port that is still to be claimed."""
        launch = self.launch_profile(profile, settings)
        words = self.arguments(profile, settings)
        # A profile that fixes the order of its flags has the address among them.
        address = [] if "{port}" in words else ["--host", "127.0.0.1", "--port", "{port}"]
        command = [*self.program(profile, settings), *address, *words]
        ports = {} if profile.tuned else {"multi": settings.multi_port, "serial": settings.serial_port}
        wanted = ports.get(profile.role)
        return LaunchSpec(
            label=profile.label,
            command=tuple(command),
            env={settings.api_key_env: None, **launch.env, **self.environment},  # the key is for attached servers
            preferred_port=self._port(profile, settings, wanted or launch.port),
            strict_port=wanted is not None,
            startup_timeout=settings.startup_timeout,
        )

    def _port(self, profile: Profile, settings: Settings, first: int) -> int:
        """Each server of a role its own port: the first from ``first``, further ones in steps of 10."""
        packed = profile.role == "multi"
        backends = [backend for backend in self.backends if backend in settings.backend]
        masks, chunks = (settings.mask_impl, settings.server_chunk_size) if packed else ((None,), (None,))
        in_use: list[tuple[str, str | None, int | None]] = list(product(backends, masks, chunks))
        wanted = (profile.backend, profile.mask_impl, profile.chunk_size)
        return first + 10 * (in_use.index(wanted) if wanted in in_use else len(in_use))


class InstalledEngine(LaunchedEngine):
    """An engine that lives in an environment of its own and runs from that environment's interpreter.

    ``module``: what is launched; ``package``, ``sources``, ``distribution`` and ``surroundings``: see
    `adapters.installed.inspect`.
    """

    module: str
    sources: str
    distribution: str
    surroundings: tuple[str, ...]
    environment: Mapping[str, str] = LaunchedEngine.guarded
    #: What the server logs when it refuses its own arguments; its words are the first group.
    refusals: tuple[re.Pattern[str], ...] = ()

    def fit(self, settings: Settings) -> Settings:
        """The device is what the machine has, unless the user says otherwise.

        Raises UsageError where servers are to be started and it is not said from which environment, or with
        which model.
        """
        if settings.engine_python is None and not attaches(settings):
            raise UsageError(
                f"engine {self.name} runs from its own environment; name that environment's python: "
                "--engine-python PATH"
            )
        return self.fit_to_show(settings)

    def fit_to_show(self, settings: Settings) -> Settings:
        """As `fit`; where no environment is named, the interpreter is ``python``, and nothing is asked of it."""
        if settings.origins.get("device", "default") == "default":
            origins = {**settings.origins, "device": "detected"}
            settings = replace(settings, device=detected_device(), origins=origins)
        settings = super().fit(settings)
        if not (settings.model or settings.models or attaches(settings)):
            raise UsageError(f"engine {self.name} has no model of its own; name one: --model DIR")
        return settings

    def installed(self, settings: Settings) -> Installed:
        """The engine in the interpreter that the settings name. Raises EngineUnavailable."""
        python, root = str(settings.engine_python), str(self.root or "")
        return inspect(python, self.package, self.sources, self.distribution, self.surroundings, root)

    def version(self, settings: Settings) -> str | None:
        """As it is installed. Raises EngineUnavailable."""
        return None if settings.engine_python is None else self.installed(settings).version

    def _unvaried(self, profile: Profile, settings: Settings) -> LaunchProfile:
        """On a CPU, with what the packages of the engine's environment change. Raises EngineUnavailable."""
        launch = super()._unvaried(profile, settings)
        if settings.device == "cpu" and launch.cpu_with and settings.engine_python is not None:
            for package in launch.cpu_with.keys() & self.installed(settings).packages.keys():
                launch = launch.over(launch.cpu_with[package])
        return launch

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """Why not: no environment, or a version that cannot express the profile."""
        reason = super().unavailable(profile, settings)
        try:
            if reason is None:
                self._flags(profile, settings)
        except EngineUnavailable as error:
            return str(error)
        return reason

    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """The engine's own launcher, run by its own interpreter."""
        return [settings.engine_python or "python", "-m", self.module]

    def chosen_flags(self, launch: LaunchProfile, settings: Settings) -> Flags:
        """The first alternative whose flags the installed version knows; where no environment is named, the first."""
        if settings.engine_python is None:
            return super().chosen_flags(launch, settings)
        installed = self.installed(settings)
        lacking = []
        for flags in launch.alternatives():
            if not (missing := installed.lacking(flags)):
                return flags
            lacking.append(" ".join(f"--{name}" for name in missing))
        raise EngineUnavailable(
            f"{self.distribution} {installed.version} in {installed.python} cannot express the launch profile "
            f"{launch.name}: it does not know {', nor '.join(lacking)}"
        )

    def refusal(self, log: str) -> str | None:
        """What the server says when it refuses its own arguments."""
        own = next((words[1].strip() for pattern in self.refusals if (words := pattern.search(log))), None)
        return own or super().refusal(log)

    def packages(self, settings: Settings) -> Mapping[str, str]:
        """What is installed around the engine; nothing is known of an attached one."""
        with suppress(EngineUnavailable):
            return {} if settings.engine_python is None else self.installed(settings).packages
        return {}


def launch_of(name: str, settings: Settings, *, host: str | None = None, only_shown: bool = False) -> LaunchSpec:
    """The launch of a profile by its name, with the settings fitted to its engine.

    ``host``: where it listens (default: the profile's own). ``only_shown``: its engine need not be installed. Raises
    UsageError, or EngineUnavailable where it cannot be started here.
    """
    chosen = launch_profile(name, device=settings.device, own=settings.profiles)
    engine = choose_engine(chosen.engine)
    if not isinstance(engine, LaunchedEngine):
        raise UsageError(f"engine {engine.name} is not started from launch profiles")
    in_use: dict[str, Any] = {"engine": chosen.engine, f"{chosen.role}_profile": name}
    fit = engine.fit_to_show if only_shown else engine.fit
    settings = fit(replace(settings, **in_use))
    packed = chosen.role == "multi"
    profile = Profile(
        chosen.role,
        settings.backend[0],
        settings.mask_impl[0] if packed else None,
        settings.server_chunk_size[0] if packed else None,
        Semantics(settings.semantics),
    )
    if (reason := engine.unavailable(profile, settings)) is not None:
        raise EngineUnavailable(reason)
    spec = engine.launch(profile, settings)
    command = [part.replace("{port}", str(spec.preferred_port)) for part in spec.command]
    command[command.index("--host") + 1] = host or chosen.host
    if only_shown and settings.engine_python is None:  # what guards an environment that is named, guards none
        spec = replace(spec, env={name: value for name, value in spec.env.items() if name not in engine.environment})
    return replace(spec, command=tuple(command))


@cache
def detected_device() -> str:
    """The accelerator of this machine, by its device files: "cuda", "tpu", or else "cpu"."""
    if os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - a device node
        return "cuda"
    if os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0"):  # noqa: PTH110
        return "tpu"
    return "cpu"


def _values(profile: Profile, settings: Settings) -> dict[str, Any]:
    """What ``{name}`` stands for in a launch profile."""
    return {name: getattr(settings, name) for name in _FILLED_IN} | {
        "host": "127.0.0.1",
        "port": "{port}",  # claimed when it is started
        "model": profile.model or settings.model,
        "log_level": settings.bench_log_level,
        "download_dir": settings.bench_download_dir,
        "chunk_size": profile.chunk_size or 0,
        "mask_impl": profile.mask_impl,
        "semantics": profile.semantics,
    }
