"""What a profile matrix measures: every variant with its engine and settings, and the servers of its gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_multiitem.adapters.base import Profile, Role, choose_engine
from pytest_multiitem.adapters.launched import LaunchedEngine
from pytest_multiitem.adapters.profiles import Layer, read_profiles
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.given import parsed
from pytest_multiitem.settings.settings import OPTION_OF, Settings
from pytest_multiitem.variants.file import Launch, Variant, VariantsFile

_ORIGIN = "the profile matrix"


@dataclass(frozen=True)
class Planned:
    """A variant as it is measured. ``engine``: laid over with its flags; ``settings``: fitted to it. ``reason``: why it
    cannot be measured, and then nothing is started."""

    variant: Variant
    engine: LaunchedEngine
    settings: Settings
    reason: str | None = None

    @property
    def wanted(self) -> Mapping[str, Any]:
        """What the packed server must not contradict: the variant's flags by the names of ``/get_server_info``, and
        what the file expects of it."""
        flags = {name.replace("-", "_"): value for name, value in self.variant.flags.items()}
        return {**flags, **self.variant.expect}


@dataclass(frozen=True)
class Cell:
    """A gate of a variant on one backend, with one mask and server chunk size where it is about packed servers."""

    gate: Gate
    backend: str
    mask: str | None
    chunk: int
    label: str

    def packed(self, settings: Settings) -> Profile:
        """The packed server of the cell, which is asked whether the variant runs."""
        mask = self.mask or settings.mask_impl[0]
        return Profile("multi", self.backend, mask, self.chunk, Semantics(settings.semantics))


def check_settings(settings: Settings) -> None:
    """Raises UsageError for settings that no profile matrix can have."""
    for name in ("multi_url", "serial_url", "models"):
        if getattr(settings, name):
            flag = OPTION_OF[name].short_flag
            raise UsageError(f"{flag}: the variants of --profile-matrix start servers of their own; leave it out")


def plan(file: VariantsFile, settings: Settings) -> list[Planned]:
    """Every variant, in the order of the file.

    ``settings``: the run's; the file's go before their defaults, a variant's own before both. Raises UsageError where a
    variant's own contradicts what the user gives for the run: one of both would not hold.
    """
    base = _unfitted(settings)
    return [_planned(file, variant, base) for variant in file.variants]


def _unfitted(settings: Settings) -> Settings:
    """The settings without what another engine than a variant's has chosen."""
    chosen = [
        name
        for name, origin in settings.origins.items()
        if origin.startswith(("engine ", "profile ")) or origin == "detected"
    ]
    defaults: dict[str, Any] = {name: OPTION_OF[name].default for name in chosen}
    return replace(settings, **defaults, origins={**settings.origins, **dict.fromkeys(chosen, "default")})


def _planned(file: VariantsFile, variant: Variant, settings: Settings) -> Planned:
    own: dict[str, Any] = parsed(variant.settings)
    own |= {
        name: value
        for name, value in (
            ("engine", variant.engine), ("engine_python", variant.engine_python), ("multi_profile", variant.profile),
            ("serial_profile", variant.serial_profile), ("extend_profile", variant.extend_profile),
        )
        if value is not None
    }  # fmt: skip
    for name, value in own.items():
        if settings.origins[name] != "default" and getattr(settings, name) != value:
            place = OPTION_OF[name].place(settings.origins[name])
            raise UsageError(
                f"variant {variant.name!r} has {name} = {value}, but {place} says {settings.shown(name)}; drop one"
            )
    shared = {name: value for name, value in parsed(file.settings).items() if settings.origins[name] == "default"}
    given = {**shared, **own}
    settings = replace(settings, **given, origins={**settings.origins, **dict.fromkeys(given, _ORIGIN)})
    engine = choose_engine(settings.engine)
    if not isinstance(engine, LaunchedEngine):
        raise UsageError(
            f"variant {variant.name!r}: engine {engine.name} is not started from launch profiles, so nothing can be "
            "laid over them"
        )
    profiles = read_profiles(settings.profiles)
    for name in ("multi_profile", "serial_profile", "extend_profile"):
        profile = getattr(settings, name)
        if profile is not None and profile not in profiles:
            raise UsageError(
                f"variant {variant.name!r}: no launch profile is called {profile!r}{did_you_mean(profile, profiles)}; "
                "`multiitem launch` lists them"
            )
    launches: dict[Role, Launch] = {"multi": variant, "serial": variant.serial, "extend": variant.extend}
    layers = {role: Layer(flags=launch.flags, env=launch.env) for role, launch in launches.items()}
    engine = engine.varied(layers)
    try:
        return Planned(variant, engine, engine.fit(settings))
    except UsageError as error:  # no environment, or no model, of this engine is named: others may still be measured
        return Planned(variant, engine, settings, str(error))


def cells(planned: Planned, file: VariantsFile) -> list[Cell]:
    """The gates of a variant on its backends, masks and chunk sizes; those that need a clock come last."""
    chosen = [gate for gate in gates().values() if gate.measure is not None and _is_asked(gate, file)]
    chosen.sort(key=lambda gate: gate.timing)
    return [cell for gate in chosen for cell in _of_gate(planned, gate)]


def _is_asked(gate: Gate, file: VariantsFile) -> bool:
    return gate.name in file.gates if file.gates else gate.asked_by is None


def _of_gate(planned: Planned, gate: Gate) -> Iterator[Cell]:
    slug, settings = planned.variant.slug, planned.settings
    if planned.reason is not None:
        yield Cell(gate, settings.backend[0], None, 0, slug)
        return
    backends = settings.backend
    if any(part.startswith("opposite.") for part in gate.needs):  # such a gate is about the JAX side
        backends = tuple(name for name in backends if name == "jax") or backends[:1]
    packed = "multi" in gate.needs and "other_mask" not in gate.needs
    masks = settings.mask_impl if packed else (None,)
    chunks = settings.server_chunk_size if packed else settings.server_chunk_size[:1]
    for backend in backends:
        for mask in masks:
            for chunk in chunks:
                words = [slug, backend, mask or "", f"chunk{chunk}" if len(chunks) > 1 else ""]
                yield Cell(gate, backend, mask, chunk, "-".join(filter(None, words)))


def servers_of(planned: Planned, of: list[Cell]) -> list[Profile]:
    """The servers that the cells ask for, in their order, so that they start ahead."""
    found: dict[Profile, None] = {}
    for cell in of:
        found.setdefault(cell.packed(planned.settings))
        if "serial" in cell.gate.needs:
            found.setdefault(Profile("serial", cell.backend))
        if "extend" in cell.gate.needs:
            found.setdefault(Profile("extend", cell.backend, semantics=Semantics.QUERY_PREFIX))
    return [profile for profile in found if planned.engine.unavailable(profile, planned.settings) is None]
