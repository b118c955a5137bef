"""However a run ends, it leaves no process; and as long as it can, it leaves its results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from inner_project import REGRESSION, SMALL, VERDICTS, Project, own_frames, running, wait_until

from pytest_multiitem.results import store

SUITE = f"""
{REGRESSION}
import pathlib
import time
import pytest

@pytest.mark.multiitem_gate("segment_lowers")
def test_waits(multiitem_gate, multi_item_server, serial_server):
    pathlib.Path("waiting").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(0.1)
        pathlib.Path("cleaned").touch()

@pytest.mark.multiitem_gate("segment_vs_dense_le_1e_4")
def test_z_not_reached(multiitem_gate):
    time.sleep(60)
"""
#: Isolation runs, then the test that waits, then one that is never reached (or, beside it, waits as well).
CHOSEN = ("-k", "test_same_length or test_waits or not_reached")


def wait_for_the_middle(project: Project, process: subprocess.Popen[str]) -> list[psutil.Process]:
    def waiting() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return (project.path / "waiting").exists()

    wait_until(waiting)
    servers = project.processes()
    assert len(running(servers)) == 4  # two servers, each with its guard
    return servers


def signalled(process: subprocess.Popen[str], *numbers: signal.Signals) -> str:
    """What a run says that is sent these signals, as a terminal or a CI system sends them: with its workers."""
    main = psutil.Process(process.pid)
    workers = [each for each in main.children() if os.getsid(each.pid) == os.getsid(main.pid)]
    for number in numbers:
        for each in (main, *workers):
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                each.send_signal(number)
        time.sleep(0.01)
    said, _ = process.communicate(timeout=60)
    assert "INTERNALERROR" not in said and own_frames(said) == [], said
    return said


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_ctrl_c(project: Project, workers: list[str]) -> None:
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, *CHOSEN, *workers)
    servers = wait_for_the_middle(project, process)
    family = psutil.Process(process.pid).children(recursive=True)
    said = signalled(process, *[signal.SIGINT] * 3)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said
    assert (project.path / "cleaned").exists()
    assert running(servers) == []
    wait_until(lambda: not running(family), within=5)
    matrix = project.matrix
    assert store.schema_problems(matrix) == []
    assert matrix["complete"] is False
    assert matrix["interrupted_by"] == "KeyboardInterrupt"
    assert matrix["exit_status"] == pytest.ExitCode.INTERRUPTED
    verdicts = {r["nodeid"].partition("::")[2]: r["verdict"] for r in matrix["gates"]}
    outcomes = {t["nodeid"].partition("::")[2]: (t["outcome"], t["reason"]) for t in matrix["tests"]}
    assert verdicts["test_waits[pytorch-dense]"] == verdicts["test_z_not_reached"] == "NOT_RUN"
    outcome, reason = outcomes["test_waits[pytorch-dense]"]
    assert outcome == "not reached"
    # The word that a worker has begun a test may still have been under way to the controller.
    assert reason == "the run ended during this test" or (workers and reason is None)
    assert outcomes["test_z_not_reached"][0] == "not reached"
    assert matrix["summary"]["FAIL"] == matrix["summary"]["INCONCLUSIVE"] == 0
    if not workers:
        assert verdicts["TestMultiItemIsolation::test_same_length_isolation[pytorch-dense]"] == "PASS"
        assert matrix["summary"]["PASS"] == 1
    assert "Incomplete run" in project.report
    assert "incomplete: KeyboardInterrupt" in said
    assert not list(Path(project.runs[-1]).glob(".*"))


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_kill_9(project: Project, workers: list[str]) -> None:
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, "-k", "test_waits", *workers)
    servers = wait_for_the_middle(project, process)
    process.kill()
    process.wait()
    wait_until(lambda: not running(servers), within=5)
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        ([], signal.SIGTERM),
        (["-n", "2"], signal.SIGTERM),
        pytest.param([], signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=["plain-SIGTERM", "xdist-SIGTERM", "plain-SIGHUP"],
)
def test_a_cancelled_job_keeps_its_results(project: Project, workers: list[str], number: signal.Signals) -> None:
    """As a CI system cancels one, or a terminal that is closed."""
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, "-k", "test_waits", *workers)
    servers = wait_for_the_middle(project, process)
    said = signalled(process, number, number)
    assert process.returncode == 128 + number, said
    assert running(servers) == []
    assert project.matrix["complete"] is False
    assert project.matrix["exit_status"] == process.returncode
    assert project.matrix["summary"]["PASS"] == 0
    assert {t["outcome"] for t in project.matrix["tests"]} == {"not reached", "deselected"}
    assert number.name in project.matrix["interrupted_by"]
    table, results = said.index("multi-item scoring validation"), said.index("results: multiitem-results/")
    assert table < said.index("gates: ") < said.rindex(f"terminated by {number.name}") < results
    assert said.rstrip().count("\n", results) == 0, "where the results are is what is read last"


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGINT] * 3, pytest.ExitCode.INTERRUPTED),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], 128 + signal.SIGTERM),
    ],
    ids=["ctrl-c", "SIGTERM"],
)
def test_signals_while_a_run_ends(project: Project, numbers: list[signal.Signals], status: int) -> None:
    """Its servers are stopped and its results are written all the same, whole."""
    project.write("test_it.py", REGRESSION)
    project.write(
        "conftest.py",
        """
        import pathlib, time
        from fake_engine import pytest_multiitem_engines

        def pytest_multiitem_update_matrix(config, matrix):
            pathlib.Path("ending").touch()
            time.sleep(0.5)
        """,
    )
    process = project.start(*SMALL, "-k", "test_same_length")
    wait_until(lambda: (project.path / "ending").exists())
    said = signalled(process, *numbers)
    assert process.returncode == status == project.matrix["exit_status"], said
    assert project.matrix["complete"] and project.matrix["summary"]["PASS"] == 1
    assert "gates: 1 PASS" in said and said.rstrip().splitlines()[-1].startswith("results: multiitem-results/")


def test_nohup_ignores_a_closed_terminal(project: Project) -> None:
    project.write("test_it.py", VERDICTS)
    project.write(
        "conftest.py",
        """
        import os, signal
        from fake_engine import pytest_multiitem_engines

        def pytest_runtest_call(item):
            os.kill(os.getpid(), signal.SIGHUP)
        """,
    )
    command = ["nohup", sys.executable, "-m", "pytest", "test_it.py::test_pass"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "gates: 1 PASS" in done.stdout, done.stdout
