"""A project that uses the plugin, run by pytest inside pytest, and what a run leaves behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

FAKE = Path(__file__).with_name("fake")

#: Plugins that run tests again, by the names under which they are installed.
RERUNNERS = ("rerunfailures", "pytest-retry", "repeat")


def without(*plugins: str) -> str:
    """What PYTEST_ADDOPTS must say for inner runs without these plugins, and without those that run tests again."""
    return " ".join(f"-p no:{name}" for name in (*plugins, *RERUNNERS))


#: One small server of each role, and no more work than a verdict needs.
SMALL = ("--engine=fake", "--backend=pytorch", "--mask-impl=dense", "--multiitem-startup-timeout=20",
         "--multiitem-property-examples=20")  # fmt: skip

REGRESSION = "from pytest_multiitem.suites.regression.test_multi_item_regression import *"
PARITY = "from pytest_multiitem.suites.parity.test_multi_item_parity import *"
BENCH = "from pytest_multiitem.suites.bench.test_bench_multi_item_score import *"

#: Gate tests that end by a stated verdict and need no server.
VERDICTS = """
    import types
    import pytest
    from pytest_multiitem.errors import UsageError
    from pytest_multiitem.gates.record import Measurement
    from pytest_multiitem.results.records import Evidence
    from pytest_multiitem.adapters.base import Profile

    TARGET = types.SimpleNamespace(
        engine="fake", model="hash-model", dtype="float32", profile=Profile("multi", "pytorch", "dense", 0)
    )

    def measured(value, floor=0.0):
        evidence = Evidence(noise_floor=floor, leak_visibility=0.5, score_spread=0.5)
        return lambda gate: Measurement(TARGET, value, evidence)

    @pytest.mark.multiitem_gate("same_length_isolation_zero")
    def test_pass(multiitem_gate):
        multiitem_gate.check(measured(0.0))

    @pytest.mark.multiitem_gate("changed_length_isolation_zero")
    def test_fail(multiitem_gate):
        multiitem_gate.check(measured(0.25))

    @pytest.mark.multiitem_gate("delimiter_aligned_equiv_le_0p02")
    def test_inconclusive(multiitem_gate):
        multiitem_gate.check(measured(0.01, floor=0.03))

    @pytest.mark.multiitem_gate("request_contract_holds")
    def test_error(multiitem_gate):
        def unreadable(gate):
            raise UsageError("cannot read the file: nobody wrote it")
        multiitem_gate.check(unreadable)

    @pytest.mark.multiitem_gate("segment_lowers")
    def test_not_run(multiitem_gate):
        multiitem_gate.not_run("no accelerator here")
"""


class Project:
    """A directory with tests in it, and what a run of pytest there leaves behind."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def run(self, *arguments: str) -> pytest.RunResult:
        """pytest in this process; with xdist (whose workers need a real environment) in another, and with pytest-retry
        (which keeps one configuration a process)."""
        if "-n" in arguments or any(each.startswith(("--tx", "--retries")) for each in arguments):
            return self.pytester.runpytest_subprocess(*arguments)
        return self.pytester.runpytest_inprocess(*arguments)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """pytest in a process of its own, at work."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def runs(self) -> list[Path]:
        """The directories of all runs, the last one last."""
        return sorted(path for path in self.path.glob("multiitem-results/*") if not path.is_symlink())

    @property
    def matrix(self) -> dict[str, Any]:
        """``matrix.json`` of the last run, by way of the link."""
        content: dict[str, Any] = json.loads((self.path / "multiitem-results/latest/matrix.json").read_bytes())
        return content

    @property
    def report(self) -> str:
        return (self.path / "multiitem-results/latest/report.md").read_text(encoding="utf-8")

    @property
    def verdicts(self) -> dict[str, list[str]]:
        """The verdicts of each gate in ``matrix.json``."""
        found: dict[str, list[str]] = {}
        for record in self.matrix["gates"]:
            found.setdefault(record["gate"], []).append(record["verdict"])
        return found

    def gate(self, name: str) -> dict[str, Any]:
        """The one record of a gate."""
        (record,) = (r for r in self.matrix["gates"] if r["gate"] == name)
        return record

    def settings(self) -> dict[str, tuple[str, str]]:
        """Value and origin of each setting."""
        return {s["name"]: (s["value"], s["origin"]) for s in self.matrix["settings"]}

    def junit(self, name: str = "junit.xml") -> dict[str, ElementTree.Element]:
        """The test cases of a JUnit file by name."""
        tree = ElementTree.parse(self.path / name)
        return {case.attrib["name"]: case for case in tree.iter("testcase")}

    def states(self) -> list[dict[str, Any]]:
        """What the guard of each launch says: ``engine_pid``, ``guard_pid``, ``status``."""
        return [json.loads(path.read_bytes()) for run in self.runs for path in run.glob("servers/*/*/state.json")]

    def processes(self) -> list[psutil.Process]:
        """Guards and engines that run now; psutil knows a process by its id and its start."""
        found = []
        for state in self.states():
            for pid in (state["guard_pid"], state["engine_pid"]):
                try:
                    found.append(psutil.Process(pid))
                except (psutil.NoSuchProcess, TypeError):
                    continue
        return found


def own_frames(said: str) -> list[str]:
    """The lines of tracebacks that name this package's code. Those of others (pytest-xdist's, for a worker that is
    killed while it starts) are theirs; so are those in the log of a server, which is quoted."""
    lines = [line for line in said.splitlines() if not line.lstrip().startswith("| ")]
    return [line for line in lines if 'File "' in line and "/pytest_multiitem/" in line]


def wait_until(condition: Callable[[], object], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run."""
    alive = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
