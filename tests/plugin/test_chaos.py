"""Whatever is killed, alone or two at the same moment: no process of the run is left, and no file half written.

Everything that a run starts carries a mark in its environment; that is how it is found afterwards, wherever it is in
the tree of processes. Servers have workers in sessions and groups of their own that ignore SIGTERM, as real engines do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import pytest
from inner_project import FAKE, REGRESSION, SMALL, Project, own_frames, wait_until

from pytest_multiitem.validation.validate import examine

MARK = "MULTIITEM_TEST_MARK"
SEED = int(os.environ.get("MULTIITEM_TEST_SEED", "20261129"))
#: Seconds in which everything is gone once the processes that were killed are: a server's own grace is 1 s.
GRACE = 15.0
#: Seconds in which a run whose servers or workers were killed ends by itself; twice as long as it ever took here.
PATIENCE = 120.0
#: Seconds of a run from its first server on, or (load, which starts none) from its beginning on.
_SPANS = {"load": 2.5, "power": 12.0}
GATES = "test_same_length or test_changed_length or test_content"
MULTIITEM = (sys.executable, "-m", "pytest_multiitem")
COMPARE = (
    *("-p", "fake_engine", "compare", "run", "--engine", "fake", "--mask-impl", "dense"),
    *("--multiitem-bench-items", "6", "--multiitem-bench-query-tokens", "30", "--multiitem-item-tokens", "5"),
    *("--multiitem-compare-chunk-sizes", "1,3,6", "--multiitem-views", "portable"),
)
POWER = ("power", "--multiitem-power-faults", "score_at_delimiter", "--backend", "pytorch")
COMMANDS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "pytest": lambda _: (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *SMALL, "-k", GATES),
    "xdist": lambda _: (*COMMANDS["pytest"](_), "-n", "2"),
    "compare": lambda _: (*MULTIITEM, *COMPARE),
    "power": lambda _: (*MULTIITEM, *POWER),
    "load": lambda url: (*MULTIITEM, "load", "--url", url, "--concurrency", "1,2", "--duration", "0.5",
                         "--output-json", "multiitem-results/load.json"),
}  # fmt: skip


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that carry a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def role_of(process: psutil.Process, main: int) -> str:
    """What a process of a run is."""
    if process.pid == main:
        return "main"
    words = process.cmdline()
    if not any(word.endswith("guard.py") for word in words):
        parents = [parent.cmdline() for parent in process.parents()]
        if any(word.endswith("guard.py") for line in parents for word in line):
            return "server" if any(word.endswith("guard.py") for word in parents[0]) else "engine's child"
        return "helper" if "pytest_multiitem" in " ".join(words) else "xdist worker"
    depth = sum(any(word.endswith("guard.py") for word in parent.cmdline()) for parent in process.parents())
    return ("outer watch", "inner watch", "guard", "anchor")[min(depth, 3)]


def roles(mark: str, main: int) -> dict[str, list[psutil.Process]]:
    """The processes of a run by what they are."""
    found: dict[str, list[psutil.Process]] = {}
    for process in marked(mark):
        with suppress(psutil.Error, OSError):
            found.setdefault(role_of(process, main), []).append(process)
    return found


@dataclass
class Chaos:
    """Runs commands in one directory, and kills in them. ``killed``: what, in each round."""

    project: Project
    url: str = ""
    random: random.Random = field(default_factory=lambda: random.Random(SEED))
    killed: list[str] = field(default_factory=list)

    def round(self, name: str) -> None:
        """Kill one or two processes of a command's run at some moment, and look at what is left."""
        mark, begun = uuid.uuid4().hex, time.monotonic()
        log = self.project.path / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                COMMANDS[name](self.url),
                cwd=self.project.path,
                env={**os.environ, MARK: mark, "FAKE_FAULTS": "multi:workers serial:workers"},
                stdout=output,
                stderr=output,
            )
        if name != "load" and self.random.random() < 0.8:  # else it may not even have begun
            wait_until(lambda: "server" in roles(mark, process.pid) or process.poll() is not None, within=PATIENCE)
        moment = time.monotonic() + self.random.random() * _SPANS.get(name, 1.5)
        while time.monotonic() < moment and process.poll() is None:
            time.sleep(0.005)
        what = self._kill(mark, process.pid)
        try:
            process.wait(PATIENCE)
            wait_until(lambda: not marked(mark), within=GRACE)
        finally:
            left = marked(mark)
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait(5)
        self.killed.append(
            f"{name}: {'+'.join(what) or 'nothing'} ({process.returncode}, {time.monotonic() - begun:.1f} s)"
        )
        said = log.read_text(encoding="utf-8", errors="replace")
        assert own_frames(said) == [], f"{self.killed[-1]}\n{said}"  # pytest-xdist has tracebacks of its own
        self.check_files()

    def _kill(self, mark: str, main: int) -> list[str]:
        by_role = roles(mark, main)
        chosen = self.random.sample(sorted(by_role), min(len(by_role), self.random.choice((1, 2))))
        victims = [self.random.choice(sorted(by_role[role], key=lambda each: each.pid)) for role in chosen]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # so that none sees the other's end
            for victim in victims:
                with suppress(psutil.Error):
                    victim.send_signal(number)
        return chosen

    def check_files(self) -> None:
        """Every file is whole; what a killed writer has left is hidden, and named as what it is."""
        for path in self.project.path.glob("multiitem-results/**/*"):
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif ".jsonl" in path.name:  # a line without its end is that of a killed writer
                whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
                assert all(json.loads(line) for line in whole), path
                assert path.name.startswith(".") or path.read_bytes().endswith(b"\n"), path
            elif path.suffix == ".draft":
                assert path.name.startswith(".") or "servers" in path.parts, path
            if path.name in ("matrix.json", "kill_matrix.json", "comparison.json"):
                assert examine(path).problems == [], path


@pytest.fixture
def chaos(project: Project, server: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    project.write("test_it.py", REGRESSION)
    (project.path / "multiitem-results").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=os.pathsep)
    made = Chaos(project, server("multi"))
    yield made
    sys.stdout.write("\n".join(["", *made.killed, ""]))  # shown where the test fails, or with -s


@pytest.mark.slow
def test_a_few_random_kills(chaos: Chaos) -> None:
    for name in ("pytest", "xdist", "compare", "pytest", "load", "compare"):
        chaos.round(name)
    the_next_run_works(chaos)


@pytest.mark.slow
def test_many_random_kills(chaos: Chaos) -> None:
    names = ("pytest", "xdist", "compare", "pytest", "xdist", "compare", "load", "pytest", "power", "compare")
    for number in range(int(os.environ.get("MULTIITEM_TEST_KILLS", "100"))):
        chaos.round(names[number % len(names)])
    assert sum("nothing" in what for what in chaos.killed) < len(chaos.killed) / 5
    the_next_run_works(chaos)


def the_next_run_works(chaos: Chaos) -> None:
    """And takes away what killed ones have left half written."""
    project = chaos.project
    for name in ("pytest", "compare"):
        done = subprocess.run(COMMANDS[name](chaos.url), cwd=project.path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{chaos.killed}\n{done.stdout}\n{done.stderr}"
    assert project.matrix["complete"] and project.matrix["summary"]["PASS"] == 3
    assert not [*project.path.glob("multiitem-results/*/.*.draft")]
