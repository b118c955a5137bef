"""What a run says in the terminal: its header and its summary."""

from __future__ import annotations

import textwrap

import pytest

from pytest_multiitem.session.check_settings import is_parallel
from pytest_multiitem.session.keys import NOTES, SETTINGS
from pytest_multiitem.session.session import SESSION, usage_errors
from pytest_multiitem.settings.settings import OPTIONS
from pytest_multiitem.signals import SIGNALLED


def header(config: pytest.Config) -> list[str]:
    """The effective settings and where each came from; nothing where the plugin is not used."""
    if SESSION not in config.stash or not config.stash[SESSION].plan.uses_plugin:
        return []
    settings = config.stash[SETTINGS]
    lines = [f"multiitem: {note}" for note in config.stash.get(NOTES, [])]
    lines += _requests(config)
    chosen = [o for o in OPTIONS if settings.origins[o.name] != "default"]
    lines += [f"multiitem: {o.name}={settings.shown(o.name)} ({settings.origins[o.name]})" for o in chosen]
    rest = ", ".join(f"{o.name}={settings.shown(o.name)}" for o in OPTIONS if o not in chosen)
    lines += textwrap.wrap(
        f"multiitem: default: {rest}", 108, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines


def _requests(config: pytest.Config) -> list[str]:
    """What is sent of the user's own requests."""
    settings = config.stash[SETTINGS]
    if settings.workload is None:
        return []
    from pytest_multiitem.traffic.loading import described  # it brings the tokenizer's library

    with usage_errors():
        source = described(settings)
    return [] if source is None else [f"multiitem: requests: {source.words}"]


def in_place_of_pytest(config: pytest.Config, exit_status: int) -> None:
    """The summary of a run that a signal has ended: for such an exit status pytest asks nobody for one."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and exit_status > SIGNALLED:
        reporter.ensure_newline()
        summarise(reporter)


def summarise(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of gates, the benchmarks, and where the results are; then what each part of the run says."""
    reporter, config = terminalreporter, terminalreporter.config
    if SESSION not in config.stash:
        return
    session = config.stash[SESSION]
    of_parts = [line for part in session.parts for line in part.lines()]
    if not session.owner or not (session.matrix or session.unmet or session.problem or of_parts):
        return
    if is_parallel(config):
        for line in header(config):
            reporter.write_line(line)
    reporter.section("multi-item scoring validation", sep="=")
    from pytest_multiitem.reports.summary import lines  # rich comes with it

    of_run = lines(session.matrix, session.unmet, session.written, config.invocation_params.dir)
    for text, markup in (*of_run, *of_parts):
        reporter.write_line(text, **markup)
    for note in session.notes:
        reporter.write_line(note, red=True, bold=True)
    if session.problem is not None:
        reporter.write_line(f"error: {session.problem}", red=True, bold=True)
