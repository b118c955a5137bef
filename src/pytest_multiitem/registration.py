"""How the plugin meets pytest: options, settings, the run's directory, its header, summary and end."""

from __future__ import annotations

import argparse
import textwrap
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.options import OPTIONS, Settings, resolve
from pytest_multiitem.state import NOTES, PLAN, RUN_DIR, SESSION, SETTINGS

if TYPE_CHECKING:
    from pytest_multiitem.session import Session

_GROUP = "multiitem"
#: Where all of these have their defaults, no engine's adapter is needed to know the settings.
_ENGINE_SETTINGS = ("engine", "mask_impl", "profiles", "multi_profile", "serial_profile", "extend_profile")


def add_options(parser: pytest.Parser) -> None:
    """Register every setting under its canonical name, and its ini value."""
    group = parser.getgroup(_GROUP, "multi-item scoring validation")
    for option in OPTIONS:
        text = f"{option.help} [env {option.variable}, ini {option.ini}]".replace("%", "%%")
        if option.is_flag:
            group.addoption(option.flag, dest=option.ini, action="store_true", default=None, help=text)
        else:
            group.addoption(option.flag, dest=option.ini, default=None, metavar=option.metavar, help=text)
        parser.addini(option.ini, option.help, type="string", default=None)


def add_short_options(parser: pytest.Parser) -> list[str]:
    """Register the short names that are still free once every other plugin and conftest has had its say.

    Returns a line for each that is not.
    """
    group = parser.getgroup(_GROUP)
    notes = []
    for option in OPTIONS:
        if not option.short:
            continue
        text = f"the same as {option.flag}"
        try:
            if option.is_flag:
                group.addoption(option.short_flag, dest=option.ini, action="store_true", default=None, help=text)
            else:
                group.addoption(option.short_flag, dest=option.ini, default=None, metavar=option.metavar, help=text)
        except (ValueError, argparse.ArgumentError):  # taken: within our group, or in another one
            notes.append(f"{option.short_flag} belongs to another plugin here; use {option.flag}")
    return notes


def hide_option_values(early_config: pytest.Config, arguments: list[str]) -> None:
    """Keep ``jax`` of ``--backend jax`` from being taken for the path to look for conftests at.

    Short names are registered after the conftests are loaded, so pytest does not know them before.
    """
    paths = early_config.known_args_namespace.file_or_dir
    names = {option.short_flag for option in OPTIONS if option.short and not option.is_flag}
    for name, value in pairwise(arguments):
        if name in names and value in paths and not value.startswith("-"):
            paths.remove(value)


def settings_of(config: pytest.Config) -> Settings:
    """The settings in force. Raises pytest.UsageError for a value that is not valid."""
    command_line = {option.ini: config.getoption(option.ini, default=None) for option in OPTIONS}
    ini = {option.ini: config.getini(option.ini) for option in OPTIONS}
    try:
        settings = resolve(command_line, ini)
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None
    if any(settings.origins[name] != "default" for name in _ENGINE_SETTINGS):
        from pytest_multiitem.servers.engines import choose_engine

        try:
            engine = choose_engine(settings.engine, chain.from_iterable(config.hook.pytest_multiitem_engines()))
            settings = engine.fit(settings)
        except MultiItemError as error:
            raise pytest.UsageError(str(error)) from None
    if settings.bench and _is_parallel(config):
        raise pytest.UsageError(
            "--bench cannot run under pytest-xdist: tests that share the machine time each other; "
            "run the benchmarks without -n"
        )
    for option, wanted in (("--compare", settings.compare), ("--power", settings.power)):
        if wanted and _is_parallel(config):
            raise pytest.UsageError(
                f"{option} measures time, and pytest-xdist runs other tests beside it; run without -n"
            )
    if settings.power:
        from pytest_multiitem.power.runner import check_settings

        try:
            check_settings(settings)
        except MultiItemError as error:
            raise pytest.UsageError(str(error)) from None
    _settle_baselines(config, settings)
    if settings.models and _is_parallel(config):
        raise pytest.UsageError("--models starts the servers of one model after the other; run it without -n")
    if settings.models and (settings.multi_url or settings.serial_url):
        raise pytest.UsageError("--models starts servers; it cannot be used with --multi-url or --serial-url")
    return settings


def _settle_baselines(config: pytest.Config, settings: Settings) -> None:
    """Refuse, before anything is measured, what a baseline cannot be compared with or saved under."""
    if settings.baseline is None and settings.origins["fail_if"] == "command line":
        raise pytest.UsageError("--fail-if says what a regression is; give the baseline as well: --baseline NAME")
    if settings.baseline is None and settings.save_baseline is None:
        return
    if _is_parallel(config):
        raise pytest.UsageError(
            "--baseline and --save-baseline cannot be used under pytest-xdist: tests that share the machine time each "
            "other, and nothing is timed there; run without -n"
        )
    from pytest_multiitem.baselines.item import prepare

    try:
        prepare(config, settings)
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None


def _is_parallel(config: pytest.Config) -> bool:
    if hasattr(config, "workerinput"):
        return True
    return bool(config.getoption("numprocesses", default=None) or config.getoption("tx", default=None))


def run_directory(config: pytest.Config) -> Path:
    """Where this run writes, the same in all its processes; not created before something is written."""
    if RUN_DIR not in config.stash:
        given = getattr(config, "workerinput", {}).get("multiitem_run_dir")
        if given is not None:
            config.stash[RUN_DIR] = Path(given)
        else:
            from pytest_multiitem.results.store import new_run_id

            base = config.stash[SETTINGS].results_dir.expanduser()
            config.stash[RUN_DIR] = config.invocation_params.dir / base / new_run_id()
    return config.stash[RUN_DIR]


def session_of(config: pytest.Config) -> Session:
    """This process's session, made on first use."""
    if SESSION not in config.stash:
        from pytest_multiitem.session import Session

        worker = getattr(config, "workerinput", None)
        config.stash[SESSION] = Session(
            config,
            config.stash[SETTINGS],
            run_dir=run_directory(config),
            process="main" if worker is None else worker["workerid"],
            keeps=worker is None,
        )
    return config.stash[SESSION]


def adopt_plan(config: pytest.Config) -> None:
    """The xdist controller takes over the run once a worker has found tests that use the plugin."""
    if (run_directory(config) / PLAN).exists():
        session_of(config).adopt_plan()


def header(config: pytest.Config) -> list[str]:
    """The effective settings and where each came from; nothing where the plugin is not used."""
    if SESSION not in config.stash or not config.stash[SESSION].used:
        return []
    settings = config.stash[SETTINGS]
    lines = [f"multiitem: {note}" for note in config.stash.get(NOTES, [])]
    chosen = [o for o in OPTIONS if settings.origins[o.name] != "default"]
    lines += [f"multiitem: {o.name}={settings.shown(o.name)} ({settings.origins[o.name]})" for o in chosen]
    rest = ", ".join(f"{o.name}={settings.shown(o.name)}" for o in OPTIONS if o not in chosen)
    lines += textwrap.wrap(
        f"multiitem: default: {rest}",
        108,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines


def finish(session: pytest.Session) -> None:
    """End the run in this process; the exit status may become 1 for a required gate that did not run."""
    config = session.config
    if SETTINGS not in config.stash or config.getoption("collectonly"):
        return
    settings = config.stash[SETTINGS]
    if SESSION in config.stash or settings.require or settings.save_baseline is not None:
        status = int(session.exitstatus)
        try:
            status = session_of(config).finish(status)
        except MultiItemError as error:  # shown in the summary, which an exception would suppress
            session_of(config).problem = str(error)
            status = int(pytest.ExitCode.INTERNAL_ERROR)
        if status != int(session.exitstatus):
            session.exitstatus = status


def summarise(reporter: pytest.TerminalReporter) -> None:
    """The table of gates, the benchmarks, and where the results are."""
    config = reporter.config
    if SESSION not in config.stash:
        return
    session = config.stash[SESSION]
    if not session.keeps or not (session.matrix or session.unmet or session.problem or session.not_saved):
        return
    from pytest_multiitem.reports.terminal import lines

    if session.process == "main" and _is_parallel(config):
        for line in header(config):
            reporter.write_line(line)
    reporter.section("multi-item scoring validation", sep="=")
    for text, markup in lines(session.matrix, session.unmet, session.written, config.invocation_params.dir):
        reporter.write_line(text, **markup)
    if session.comparison is not None:
        from pytest_multiitem.reports.comparison import comparison_lines

        reporter.write_line("")
        for text in comparison_lines(session.comparison.comparison):
            reporter.write_line(text)
        reporter.write_line(f"comparison: {_shown(session.comparison.directory, config)}/")
    if session.power is not None:
        from pytest_multiitem.reports.power import power_lines

        reporter.write_line("")
        for text in power_lines(session.power.matrix):
            reporter.write_line(text)
        reporter.write_line(f"kill matrix: {_shown(session.power.path, config)}")
    name = session.settings.save_baseline
    if session.saved is not None:
        reporter.write_line(f"baseline {name} saved: {_shown(session.saved, config)}", green=True)
    if session.not_saved is not None:
        reporter.write_line(f"baseline {name} NOT saved: {session.not_saved}", red=True, bold=True)
    if session.problem is not None:
        reporter.write_line(f"error: {session.problem}", red=True, bold=True)


def _shown(path: Path, config: pytest.Config) -> Path:
    base = config.invocation_params.dir
    return path.relative_to(base) if path.is_relative_to(base) else path
