"""Whole runs before servers that are not trusted: their time and memory, and what they show and leave behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyte
import pytest
from inner_project import REGRESSION, Project

from hostile_servers import HOSTILE, served
from hostile_words import EVIL, harmless
from secret_forms import Secrets, echoing, environment, info_with, with_login

#: Seconds that a request may take, and that a run may: importing, collecting, and a request's time for each of its few
#: gates, beside other work of the machine.
REQUEST, RUN = 1.0, 40.0
#: MiB that a run's process takes at most, NumPy and SciPy included.
MEMORY = 300
GATES = "test_same_length or test_surrounded or test_own"
#: A gate, and a test of a project's own that shows its variables.
TESTS = (
    REGRESSION
    + """

def test_own(multi_item_server):
    answer = multi_item_server.score_ids([1, 2], [[3]], [7, 8])
    assert answer.shape == (1, 2), "shown with its variables"
"""
)


class Ended:
    """A run that has ended: its exit status, what it printed, how long it took, its largest memory in MiB."""

    def __init__(self, arguments: list[str], directory: Path, variables: Mapping[str, str]) -> None:
        start, output = time.monotonic(), directory / "output.txt"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *arguments],
                cwd=directory,
                env={**os.environ, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.memory = 0.0
        while process.poll() is None:
            self.memory = max(self.memory, _peak(process.pid))
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                if time.monotonic() - start > RUN:
                    process.kill()
        self.seconds = time.monotonic() - start
        self.output = output.read_bytes()
        self.status = process.returncode


def _peak(pid: int) -> float:
    """The largest memory that a process had so far, in MiB."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return 0.0 if found is None else int(found[1]) / 1024


PACKS, SCORES = {"multi_item_scoring_delimiter": 151_643}, {"multi_item_scoring_delimiter": None}
#: Those that differ for a whole run.
_FEW = ("drips", "bomb")


def options(multi: str, *more: str, serial: str | None = None) -> list[str]:
    """A short run of attached servers."""
    few = ["-k", GATES, "--multiitem-property-examples=5", f"--multiitem-request-timeout={REQUEST:g}"]
    behind = [] if serial is None else ["--serial-url", serial]
    return ["-p", "no:cacheprovider", "--multi-url", multi, *few, *more, *behind]


@pytest.mark.parametrize("name", [n if n in _FEW else pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE])
def test_a_run_before_a_hostile_server_ends_in_time_and_memory(name: str, project: Project) -> None:
    project.write("test_it.py", TESTS)
    how = HOSTILE[name][0]
    with served({"/v1/score": how, "/get_server_info": how}) as multi, served(info=SCORES) as serial:
        run = Ended(options(multi.url, serial=serial.url), project.path, {})
    kinds, no_answer = HOSTILE[name][1], {"timeout", "connection", "http_error"}
    allowed = {4} if kinds <= no_answer else {1, 4} if kinds & no_answer else {1}
    assert run.status in allowed, run.output.decode()
    assert run.seconds < RUN and run.memory < MEMORY, (run.seconds, run.memory)
    assert b"Traceback" not in run.output and b"INTERNALERROR" not in run.output
    assert harmless(run.output.decode())
    if run.status == pytest.ExitCode.USAGE_ERROR:
        assert b"cannot be asked" in run.output and not [*project.path.glob("multiitem-results/*/matrix.json")]
        return
    assert harmless(project.report)
    assert not {record["verdict"] for record in project.matrix["gates"]} & {"PASS", "INCONCLUSIVE"}


def test_a_healthy_server_passes_the_same_run(project: Project) -> None:
    project.write("test_it.py", TESTS)
    with served(info=PACKS) as multi, served(info=SCORES) as serial:
        run = Ended(options(multi.url, serial=serial.url), project.path, {})
    assert run.status == 0, run.output.decode()
    assert run.memory < MEMORY and {r["verdict"] for r in project.matrix["gates"]} == {"PASS", "NOT_RUN"}


def test_no_words_of_a_server_act_on_who_reads_the_run(project: Project) -> None:
    """Its terminal, its JUnit file, its report: all that a server can say stands there as text."""
    project.write("test_it.py", TESTS)
    words = "".join(EVIL)
    said = {"model_path": f"m{words}", "dtype": words, words: words, "multi_item_mask_impl": f"dense{words}"}
    executed = {"packed_sequences": {words: 5}, "packed_items": {words: 5}, "prefill_extend": {"items": 0},
                "serial_sequences": 0}  # fmt: skip
    with served(info=PACKS | said | {"executed": executed}) as multi, served(info=SCORES | said) as serial:
        run = Ended(options(multi.url, "-vv", "-l", "-rA", "--junitxml=j.xml", serial=serial.url), project.path, {})
    assert run.status == pytest.ExitCode.TESTS_FAILED
    output = run.output.decode()
    assert "\\x1b[2J" in output and harmless(output) and harmless(project.report)
    for path in project.path.rglob("*"):
        if path.is_file() and path.suffix in (".xml", ".json", ".jsonl", ".md"):
            assert harmless(path.read_text(encoding="utf-8")), path
    assert project.junit("j.xml")
    lines = [line[:200].rstrip() for line in output.splitlines() if "\\x1b[2J" in line][:40]
    screen = pyte.Screen(250, len(lines) + 1)
    pyte.Stream(screen).feed("".join(f"{line}\r\n" for line in lines))
    assert (
        [line.rstrip() for line in screen.display[:-1]] == lines
        and screen.title == ""
        and screen.cursor.y == len(lines)
    )
    rows = [line.strip("| ").split(" | ") for line in project.report.splitlines() if line.startswith("| same_length")]
    assert rows and not any("PASS" in cell for row in rows for cell in row[2:]), "no row is forged"


@pytest.mark.parametrize("kind", ["healthy", "echo"])
def test_no_secret_is_left_by_a_run(kind: str, project: Project) -> None:
    project.write("test_it.py", TESTS.replace("(1, 2)", "(1, 3)"))
    secrets = Secrets()
    hostile = {"/v1/score": echoing(secrets)} if kind == "echo" else {}
    info = info_with(secrets)
    with served(hostile, info=info | PACKS) as multi, served(hostile, info=info | SCORES) as serial:
        url = with_login(multi.url, secrets, "login", encoded=kind == "echo")
        project.write("pytest.ini", f"[pytest]\nmultiitem_serial_url = {serial.url}\n")
        shown = ["-vv", "--showlocals", "-rA", "--junitxml=j.xml", "-o", "junit_logging=all", "--tb=long"]
        run = Ended(options(url, *shown), project.path, environment(secrets))
    assert {asked.headers["authorization"].split()[0] for asked in multi.seen} == {"Basic"}
    assert {asked.headers["authorization"].split()[0] for asked in serial.seen} == {"Bearer"}
    assert run.status == 1 and b"test_own" in run.output
    (project.path / "pytest.ini").unlink()
    assert len(secrets.values) >= 25
    assert secrets.leaks(project.path, run.output) == []
