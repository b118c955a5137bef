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

class TestZLast:
    def test_waits(self, multi_item_server, serial_server):
        import pathlib, time
        pathlib.Path("waiting").touch()
        time.sleep(60)

import pytest
@pytest.mark.multiitem_gate("segment_lowers")
def test_zz_never_reached(multiitem_gate):
    assert False
"""
#: Isolation runs, then the test that waits.
CHOSEN = ("-k", "test_same_length or test_waits or never_reached", "-p", "no:randomly")


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
    by_gate = {r["gate"]: r["verdict"] for r in matrix["gates"] if r["reason"] != "deselected on the command line"}
    assert by_gate["segment_lowers"] in (["NOT_RUN"] if not workers else ["NOT_RUN", "FAIL"])
    assert by_gate["same_length_isolation_zero"] in (["PASS"] if not workers else ["PASS", "NOT_RUN"])
    assert "not reached" in {t["outcome"] for t in matrix["tests"]}
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


def test_sigterm_leaves_no_server(project: Project) -> None:
    project.write("test_it.py", SUITE)
    process = project.start(*SMALL, "-k", "test_waits")
    servers = wait_for_the_middle(project, process)
    process.terminate()
    process.communicate(timeout=30)
    wait_until(lambda: not running(servers), within=5)
