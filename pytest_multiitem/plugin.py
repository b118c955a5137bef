"""pytest's hooks. Each delegates; nothing here measures, judges or writes.

In a project that uses none of the plugin's fixtures, markers or options it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_multiitem.extensions import hookspec
from pytest_multiitem.extensions.loading import load
from pytest_multiitem.fixtures import servers
from pytest_multiitem.session import check_settings, collection, junit, parameters, registration, summary, verdicts
from pytest_multiitem.session.keys import NOTES, SETTINGS
from pytest_multiitem.session.session import SESSION, adopt_plan, finish, run_directory, usage_errors

MARKERS = (
    "multiitem_gate(name): the gate whose verdict this test gives",
    "regression: isolation, equivalence, speed-up and segment-mask regression of multi-item scoring",
    "parity: agreement between backends, and with serial references",
    "tpu_segment: the segment mask: it compiles for the accelerator and agrees with dense",
    "bench: a benchmark; off unless --bench is given or it is named by path or node id",
)

pytest_addoption = registration.add_options
# trylast: what the command line deselects is gone, what others reorder is in its order
pytest_collection_modifyitems = pytest.hookimpl(trylast=True)(collection.add_tests)
pytest_deselected = collection.note_deselected
pytest_report_collectionfinish = summary.header
pytest_runtest_setup = pytest.hookimpl(tryfirst=True)(collection.refuse_or_pass)
pytest_report_teststatus = verdicts.status
pytest_terminal_summary = summary.summarise
# trylast: pytest's terminal says there what has interrupted a run
pytest_unconfigure = pytest.hookimpl(trylast=True)(summary.close)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspec)
    pluginmanager.register(servers, "multiitem-fixtures")


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
    with usage_errors():  # what hooks bring is known before a setting, a marker or a suite names it
        config.add_cleanup(load(config.pluginmanager))
    config.stash[SETTINGS] = check_settings.settings_of(config)
    config.pluginmanager.register(RunListener(config), "multiitem-run-listener")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    finish(session)
    summary.in_place_of_pytest(session.config, exitstatus)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # pytest-xdist: the controller, before a worker starts
    node.workerinput["multiitem_run_dir"] = str(run_directory(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    adopt_plan(node.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parameters.parametrize(metafunc, metafunc.config.stash[SETTINGS])


@pytest.hookimpl(tryfirst=True)  # before the terminal asks for the header
def pytest_collection_finish(session: pytest.Session) -> None:
    collection.finish(session.config, session.items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    verdicts.carry(item, call, report)
    return report


class RunListener:
    """The hooks that pytest calls without its config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)  # before the JUnit file takes it down
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if SESSION in self._config.stash:
            self._config.stash[SESSION].ledger.add(report)
            junit.enter(report, self._config)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if SESSION in self._config.stash:
            session = self._config.stash[SESSION]
            session.hold_interruptions()
            session.ledger.interrupted_by = str(excinfo.value) or excinfo.typename
