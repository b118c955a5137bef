"""However a run ends, it leaves no process; and as long as it can, it leaves its results."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from inner_project import REGRESSION, SMALL, Project, running, wait_until

from pytest_multiitem.results import store

SUITE = f"""
{REGRESSION}
import pathlib
import time
import pytest

@pytest.mark.multiitem_gate("segment_lowers")
def test_waits(multiitem_gate, multi_item_server, serial_server):
    pathlib.Path("waiting").touch()
    time.sleep(60)

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


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_ctrl_c(project: Project, workers: list[str]) -> None:
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, *CHOSEN, *workers)
    servers = wait_for_the_middle(project, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said
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


def test_sigterm_keeps_the_results(project: Project) -> None:
    """As a cancelled CI job gets it."""
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, "-k", "test_waits")
    servers = wait_for_the_middle(project, process)
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert running(servers) == []
    assert project.matrix["complete"] is False
    assert project.matrix["summary"]["PASS"] == 0
    assert {t["outcome"] for t in project.matrix["tests"]} == {"not reached", "deselected"}
    assert "SIGTERM" in project.matrix["interrupted_by"]
