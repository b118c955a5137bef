"""The settings in force, and what cannot be asked for together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_multiitem.scoring.vocabulary import ALL
from pytest_multiitem.session.part import PARTS, parts_of
from pytest_multiitem.session.session import usage_errors
from pytest_multiitem.settings.attached import check_addresses
from pytest_multiitem.settings.project_file import project_settings
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTIONS, Settings

#: Where all of these have their defaults, no engine's adapter is needed to know the settings.
_ENGINE_SETTINGS = (
    "engine", "backend", "mask_impl", "profiles", "multi_profile", "serial_profile", "extend_profile",
    "compare_urls", "cost_per_hour",
)  # fmt: skip

#: Where settings come from that a command has passed on to this run; where there is none, as they are found.
ORIGINS: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def settings_of(config: pytest.Config) -> Settings:
    """The settings in force. Raises pytest.UsageError for a value that is not valid."""
    command_line = {option.ini: config.getoption(option.ini, default=None) for option in OPTIONS}
    ini = {option.ini: config.getini(option.ini) for option in OPTIONS}
    with usage_errors():
        project = project_settings(config.rootpath)
        settings = resolve(command_line, ini, project=project)
        passed_on: dict[str, str] = config.stash.get(ORIGINS, {})
        origins = {**settings.origins, **passed_on}
        settings = _with_known_names(replace(settings, origins=origins))
    if settings.bench and is_parallel(config):
        raise pytest.UsageError(
            "--bench cannot run under pytest-xdist: tests that share the machine time each other; "
            "run the benchmarks without -n"
        )
    with usage_errors():
        check_addresses(settings)
    if settings.baseline is None and settings.origins["fail_if"] == "command line":
        raise pytest.UsageError("--fail-if says what a regression is; give the baseline as well: --baseline NAME")
    config.stash[PARTS] = parts_of(config, settings)
    for part in config.stash[PARTS]:
        if is_parallel(config):
            raise pytest.UsageError(part.not_parallel)
        with usage_errors():
            part.check_settings()
    if settings.models and is_parallel(config):
        raise pytest.UsageError("--models starts the servers of one model after the other; run it without -n")
    if settings.models and (settings.multi_url or settings.serial_url):
        raise pytest.UsageError("--models starts servers; it cannot be used with --multi-url or --serial-url")
    return settings


def _with_known_names(settings: Settings) -> Settings:
    """The settings fitted to the engine, now that all hooks are known, and to the user's own requests.

    Raises UsageError for a name of no engine, backend, mask, gate or fault, and for requests that cannot be used. Each
    is imported only where an option names one: it is slow, and mostly none does.
    """
    if any(settings.origins[name] != "default" for name in _ENGINE_SETTINGS):
        from pytest_multiitem.adapters.base import check_backends, choose_engine

        settings = choose_engine(settings.engine).fit(settings)
        check_backends(settings)
    if settings.workload is not None or settings.origins["labels"] != "default":
        from pytest_multiitem.traffic.loading import fitted

        settings = fitted(settings)
    if settings.require:
        from pytest_multiitem.gates.registry import gate_names

        settings.check_names("require", settings.require, (*gate_names(), ALL))
    if settings.power_faults or settings.power_part != "1/1":
        from pytest_multiitem.power.plan import check_faults

        check_faults(settings)
    return settings


def is_parallel(config: pytest.Config) -> bool:
    """Whether pytest-xdist runs the tests beside each other."""
    given = (config.getoption(name, default=None) for name in ("numprocesses", "tx"))
    return hasattr(config, "workerinput") or any(given)
