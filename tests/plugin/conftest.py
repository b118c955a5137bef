"""Fixtures: a project with an engine that starts in a moment, and servers that belong to no run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

# pytester forgets what an inner run imports, and extension modules cannot be imported twice.
import httpcore
import scipy.stats
from inner_project import FAKE, Project

import pytest_multiitem.bench.curve
import pytest_multiitem.checks
import pytest_multiitem.reports.markdown
import pytest_multiitem.reports.terminal
import pytest_multiitem.results.store
import pytest_multiitem.session  # noqa: F401

@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project whose conftest gives the plugin the fake engine (``--engine=fake``)."""
    for name in [*os.environ]:
        if name.startswith(("MULTI_ITEM_", "FAKE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:asyncio")  # slow, and full of warnings
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.syspath_prepend(FAKE)
    made = Project(pytester)
    made.write("conftest.py", "from fake_engine import pytest_multiitem_engines\n")
    return made


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the faults of the fake servers: ``ROLE:FAULT[=VALUE] …``."""
    return lambda text: monkeypatch.setenv("FAKE_FAULTS", text)


@pytest.fixture
def server() -> Iterator[Callable[..., str]]:
    """Starts fake servers that belong to nobody's run; gives their addresses."""
    started: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: str) -> str:
        process = subprocess.Popen(
            [sys.executable, str(FAKE / "fake_server.py"), "0", role, *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{process.stdout.readline().split()[-1]}"

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
