"""The settings in force, and what cannot be asked for together."""

from __future__ import annotations

from itertools import chain

import pytest

from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.scoring.vocabulary import ALL
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import OPTIONS, Settings

#: Where all of these have their defaults, no engine's adapter is needed to know the settings.
_ENGINE_SETTINGS = (
    "engine", "backend", "mask_impl", "profiles", "multi_profile", "serial_profile", "extend_profile",
    "compare_urls", "cost_per_hour",
)  # fmt: skip


def settings_of(config: pytest.Config) -> Settings:
    """The settings in force. Raises pytest.UsageError for a value that is not valid."""
    command_line = {option.ini: config.getoption(option.ini, default=None) for option in OPTIONS}
    ini = {option.ini: config.getini(option.ini) for option in OPTIONS}
    try:
        settings = _with_known_names(config, resolve(command_line, ini))
        _check_together(config, settings)
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None
    return settings


def _check_together(config: pytest.Config, settings: Settings) -> None:
    """Refuse, before anything is measured, what cannot be asked for together. Raises UsageError."""
    parallel = is_parallel(config)
    if settings.bench and parallel:
        raise UsageError(
            "--bench cannot run under pytest-xdist: tests that share the machine time each other; "
            "run the benchmarks without -n"
        )
    for option, wanted in (("--compare", settings.compare), ("--power", settings.power)):
        if wanted and parallel:
            raise UsageError(f"{option} measures time, and pytest-xdist runs other tests beside it; run without -n")
    if settings.power:
        from pytest_multiitem.power.runner import check_settings  # what --power needs is slow to import

        check_settings(settings)
    if settings.baseline is None and settings.origins["fail_if"] == "command line":
        raise UsageError("--fail-if says what a regression is; give the baseline as well: --baseline NAME")
    if settings.baseline is not None or settings.save_baseline is not None:
        if parallel:
            raise UsageError(
                "--baseline and --save-baseline cannot be used under pytest-xdist: tests that share the machine time "
                "each other, and nothing is timed there; run without -n"
            )
        from pytest_multiitem.session.parts.baseline import prepare  # and so is what a baseline needs

        prepare(config, settings)
    if settings.models and parallel:
        raise UsageError("--models starts the servers of one model after the other; run it without -n")
    if settings.models and (settings.multi_url or settings.serial_url):
        raise UsageError("--models starts servers; it cannot be used with --multi-url or --serial-url")


def _with_known_names(config: pytest.Config, settings: Settings) -> Settings:
    """The settings fitted to the engine, now that all hooks are known. Raises UsageError for a name of no engine,
    backend, mask, gate or fault. Each is imported only where an option names one: it is slow, and mostly none does."""
    if any(settings.origins[name] != "default" for name in _ENGINE_SETTINGS):
        from pytest_multiitem.adapters.base import check_backends, choose_engine, known_engines

        engines = known_engines(chain.from_iterable(config.hook.pytest_multiitem_engines()))
        settings = choose_engine(settings.engine, engines.values()).fit(settings)
        check_backends(settings, engines.values())
    if settings.require:
        from pytest_multiitem.gates.registry import gate_names

        settings.check_names("require", settings.require, (*gate_names(), ALL))
    if settings.power_faults:
        from pytest_multiitem.power.runner import check_fault_names

        check_fault_names(settings)
    return settings


def is_parallel(config: pytest.Config) -> bool:
    """Whether pytest-xdist runs the tests, in this process or in others."""
    if hasattr(config, "workerinput"):
        return True
    return bool(config.getoption("numprocesses", default=None) or config.getoption("tx", default=None))
