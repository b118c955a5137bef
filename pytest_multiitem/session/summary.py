"""What a run says in the terminal: its header, its summary, and at the very end where the results are."""

from __future__ import annotations

import textwrap

import pytest

from pytest_multiitem.reports.colours import coloured
from pytest_multiitem.session.check_settings import is_parallel
from pytest_multiitem.session.github import tell
from pytest_multiitem.session.keys import NOTES, SETTINGS
from pytest_multiitem.session.session import SESSION, usage_errors
from pytest_multiitem.settings.settings import OPTION_OF, OPTIONS
from pytest_multiitem.signals import SIGNALLED

#: Characters of a line that is still read easily.
_WIDEST = 108


def header(config: pytest.Config) -> list[str]:
    """The settings that are not the default, or all, and where each came from; nothing where the plugin is not used."""
    if SESSION not in config.stash or not config.stash[SESSION].plan.uses_plugin:
        return []
    settings = config.stash[SETTINGS]
    lines = [f"multiitem: {note}" for note in config.stash.get(NOTES, [])]
    lines += _requests(config)
    chosen = [o for o in OPTIONS if settings.origins[o.name] != "default"]
    lines += [f"multiitem: {o.name}={settings.shown(o.name)} ({settings.origins[o.name]})" for o in chosen]
    left = [o for o in OPTIONS if o not in chosen]
    if settings.header != "full":
        return [
            *lines,
            f"multiitem: {len(left)} settings have their defaults; {OPTION_OF['header'].flag}=full shows them",
        ]
    rest = ", ".join(f"{o.name}={settings.shown(o.name)}" for o in left)
    width = min(config.get_terminal_writer().fullwidth, _WIDEST)
    lines += textwrap.wrap(
        f"multiitem: default: {rest}", width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
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

    has_colours = config.get_terminal_writer().hasmarkup
    for text, markup in (*lines(session.matrix, session.unmet), *of_parts):
        reporter.write_line(coloured(text) if has_colours and not markup else text, **markup)
    for text in [] if session.matrix is None else tell(session.matrix):
        reporter.write_line(text)
    for note in session.notes:
        reporter.write_line(note, red=True, bold=True)
    if session.problem is not None:
        reporter.write_line(f"error: {session.problem}", red=True, bold=True)


def close(config: pytest.Config) -> None:
    """Where the results are: the last line of a run, after all that pytest says, also of one that a signal ended."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    written = config.stash[SESSION].written if SESSION in config.stash else None
    if reporter is None or written is None:
        return
    from pytest_multiitem.reports.summary import results_line  # as above

    reporter.ensure_newline()
    reporter.write_line(results_line(written, config.invocation_params.dir))
