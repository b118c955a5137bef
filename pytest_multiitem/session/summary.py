"""What a run says in the terminal: its header and its summary."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pytest_multiitem.session.check_settings import is_parallel
from pytest_multiitem.session.current import SESSION
from pytest_multiitem.session.keys import NOTES, SETTINGS
from pytest_multiitem.settings.settings import OPTIONS


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


def summarise(reporter: pytest.TerminalReporter) -> None:
    """The table of gates, the benchmarks, and where the results are."""
    config = reporter.config
    if SESSION not in config.stash:
        return
    session = config.stash[SESSION]
    if not session.keeps or not (session.matrix or session.unmet or session.problem or session.not_saved):
        return
    from pytest_multiitem.reports.summary import lines

    if session.process == "main" and is_parallel(config):
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
