"""This process's session: where it is kept, and how it is made on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.errors import UsageError
from pytest_multiitem.session.keys import PLAN, RUN_DIR, SETTINGS

if TYPE_CHECKING:
    from pytest_multiitem.session.session import Session


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
        from pytest_multiitem.session.session import Session

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
        try:
            session_of(config).adopt_plan()
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None


SESSION: pytest.StashKey[Session] = pytest.StashKey()
