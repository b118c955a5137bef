"""Which tests of a run are the plugin's, in which order, and which of them must not run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest

from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.store import make_run_dir
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.session.parameters import model_of, place_of, profiles_of
from pytest_multiitem.session.part import PARTS
from pytest_multiitem.session.session import SESSION, session_of, usage_errors
from pytest_multiitem.session.verdicts import gate_of, uses_plugin

#: The tests that the plugin adds to a run because its options ask for them; they need no test of the project's.
_ADDED: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()


def add_tests(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the tests that the run's options ask for, after all others, and to pytest's count of these."""
    added = [item for part in session.config.stash[PARTS] for item in part.items(session)]
    session.config.stash[_ADDED] = added
    items += added
    for suite, tests in groupby(added, lambda item: item.nodeid.partition("::")[0]):
        report = pytest.CollectReport(suite, "passed", None, [*tests])
        session.config.hook.pytest_collectreport(report=report)


def note_deselected(items: Iterable[pytest.Item]) -> None:
    """Remember the tests that the command line leaves out, so that they show as NOT_RUN."""
    for item in items:
        if uses_plugin(item):
            plan = session_of(item.config).plan
            plan.deselected[item.nodeid], plan.places[item.nodeid] = gate_of(item), place_of(item)


def finish(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the final list of tests into the run's plan; model after model, where there are several."""
    models = config.stash[SETTINGS].models
    if models:
        items.sort(key=lambda item: models.index(model_of(item)) if model_of(item) in models else -1)
    added = config.stash.get(_ADDED, [])
    if added:  # last, and back in the run if another plugin has taken them out
        items[:] = [*(item for item in items if item not in added), *added]
    ours = [item for item in items if uses_plugin(item)]
    if ours:
        plan = session_of(config).plan
        for item in added:
            plan.deselected.pop(item.nodeid, None)
        plan.selected.update({item.nodeid: gate_of(item) for item in ours})
        plan.places.update({item.nodeid: place_of(item) for item in ours})
        plan.profiles = tuple(dict.fromkeys(p for item in ours if not _refusal(item) for p in profiles_of(item)))
        plan.starts_servers = any(profile.backend != ATTACHED for profile in plan.profiles)
    if SESSION not in config.stash or config.getoption("collectonly"):
        return
    is_worker = hasattr(config, "workerinput")
    session = session_of(config)
    if is_worker:
        with suppress(UsageError):  # it would end a worker in silence; the controller hears of it by the plan
            make_run_dir(session.run_dir)
        with suppress(UsageError):
            session.plan.write(session.run_dir)
        return
    with usage_errors():
        make_run_dir(session.run_dir)
        if ours:
            session.run.attach()


def refuse_or_pass(item: pytest.Item) -> None:
    """Skip, as NOT_RUN, what must not run: benchmarks that are off, timing beside other tests."""
    if uses_plugin(item) and (reason := _refusal(item)) is not None:
        pytest.skip(f"NOT_RUN: {reason}")


def _refusal(item: pytest.Item) -> str | None:
    is_benchmark = item.get_closest_marker("bench") is not None
    gate = gate_of(item)
    is_timing = is_benchmark or (gate is not None and gates()[gate].timing)
    if is_timing and hasattr(item.config, "workerinput"):
        return "it measures time, and pytest-xdist runs other tests at the same time; run it without -n"
    if is_benchmark and not item.config.stash[SETTINGS].bench and not _is_named(item):
        return "benchmarks are off; add --bench, or name the test by path or node id"
    return None


def _is_named(item: pytest.Item) -> bool:
    """Whether the command line names the test's node id, its file or its directory."""
    config = item.config
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return False
    base, places = config.invocation_params.dir, (item.path, item.path.parent)
    return any(Path(base, argument.partition("::")[0]).resolve() in places for argument in config.args)
