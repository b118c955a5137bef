"""pytest's hooks. Each delegates; nothing here measures, judges or writes.

In a project that uses none of the plugin's fixtures, markers or options it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_multiitem.extensions import hookspec
from pytest_multiitem.fixtures.servers import (  # noqa: F401 - pytest finds the fixtures of a plugin in its module
    multi_item_server,
    multiitem_bench,
    multiitem_bench_chunk,
    multiitem_chunk,
    multiitem_client_chunk,
    multiitem_gate,
    multiitem_model,
    multiitem_run,
    multiitem_tpu_check,
    prefill_extend_server,
    serial_server,
)
from pytest_multiitem.session import (
    added,
    check_settings,
    collection,
    extensions,
    parameters,
    registration,
    summary,
    verdicts,
)
from pytest_multiitem.session.keys import NOTES, SETTINGS
from pytest_multiitem.session.session import SESSION, adopt_plan, finish, run_directory

MARKERS = (
    "multiitem_gate(name): the gate whose verdict this test gives",
    "regression: isolation, equivalence, speed-up and segment-mask regression of multi-item scoring",
    "parity: agreement between backends, and with serial references",
    "tpu_segment: the segment mask: it compiles for the accelerator and agrees with dense",
    "bench: a benchmark; off unless --bench is given or it is named by path or node id",
)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspec)


def pytest_addoption(parser: pytest.Parser) -> None:
    registration.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    registration.hide_option_values(early_config, args)
    result = yield
    early_config.stash[NOTES] = registration.add_short_options(parser)
    return result


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    extensions.load_extensions(config)
    config.stash[SETTINGS] = check_settings.settings_of(config)
    config.pluginmanager.register(RunListener(config), "multiitem-run-listener")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # pytest-xdist: the controller, before a worker starts
    node.workerinput["multiitem_run_dir"] = str(run_directory(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    adopt_plan(node.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parameters.parametrize(metafunc, metafunc.config.stash[SETTINGS])


@pytest.hookimpl(trylast=True)  # what the command line deselects is gone, what others reorder is in its order
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    added.add(session, items)


def pytest_deselected(items: list[pytest.Item]) -> None:
    collection.note_deselected(items)


@pytest.hookimpl(tryfirst=True)  # before the terminal asks for the header
def pytest_collection_finish(session: pytest.Session) -> None:
    collection.finish(session.config, session.items)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return summary.header(config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    collection.refuse_or_pass(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    verdicts.carry(item, report)
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    return verdicts.status(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    finish(session)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    summary.summarise(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    extensions.unload_extensions(config)


class RunListener:
    """The hooks that pytest calls without its config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if SESSION in self._config.stash:
            self._config.stash[SESSION].ledger.add(report)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if SESSION in self._config.stash:
            self._config.stash[SESSION].ledger.interrupted_by = str(excinfo.value) or excinfo.typename
