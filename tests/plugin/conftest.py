"""Fixtures: a project with an engine that starts in a moment, and servers that belong to no run."""

from __future__ import annotations

import importlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from inner_project import FAKE, Project, without

if TYPE_CHECKING:
    from rented import Rig

#: A certificate of this machine's own, with its key.
PEM = Path(__file__).parents[1] / "unit" / "localhost.pem"
#: pytester forgets what an inner run imports, and extension modules cannot be imported twice in a process.
for _module in (
    "httpcore",
    "hypothesis",
    "scipy.stats",
    "pytest_multiitem.bench.curve",
    "pytest_multiitem.session.gate_check",
    "pytest_multiitem.properties.search",
    "pytest_multiitem.reports.formats",
    "pytest_multiitem.reports.summary",
    "pytest_multiitem.results.store",
    "pytest_multiitem.session.ledger",
):
    importlib.import_module(_module)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project whose conftest gives the plugin the fake engine (``--engine=fake``)."""
    for name in [*os.environ]:
        if name.startswith(("MULTI_ITEM_", "FAKE_", "PYTEST_XDIST_", "GITHUB_")):
            monkeypatch.delenv(name)
    # Others' plugins are for test_coexistence.py; to load them costs more than most runs here.
    monkeypatch.setenv("PYTEST_ADDOPTS", without("hypothesispytest", "asyncio", "anyio", "pytest_cov", "timeout"))
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=os.pathsep)
    monkeypatch.syspath_prepend(FAKE)
    made = Project(pytester)
    made.write("conftest.py", "from fake_engine import pytest_multiitem_engines\n")
    return made


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the faults of the fake servers: ``ROLE:FAULT[=VALUE] …``."""
    return lambda text: monkeypatch.setenv("FAKE_FAULTS", text)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Everything for `multiitem orchestrate`: a fake cloud, whose machines are real, and a fake client on PATH."""
    from fake_cloud import FakeCloud
    from rented import Rig

    cloud = FakeCloud(tmp_path / "cloud")
    made = Rig(tmp_path, cloud, monkeypatch)
    made.use_client(real=False)
    yield made
    cloud.close()


class Spawner:
    """Fake servers without a start of Python for each: `fake/spawner.py`."""

    def __init__(self) -> None:
        command = [sys.executable, str(FAKE / "spawner.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, *arguments: str) -> tuple[int, str]:
        """The id of the process of a new server, and its address."""
        self._send([str(Path.cwd()), *arguments])
        pid = self._hear("pid")
        return int(pid), f"http://127.0.0.1:{self._hear('serving on')}"

    def end(self, pid: int) -> None:
        """Kill a server, and wait until it is gone."""
        self._send(pid)
        self._hear("ended")

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _send(self, command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _hear(self, word: str) -> str:
        """What follows a word; between there may be what a server says that ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            assert line != "failed\n", "the fake server has not started"
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError("the process that starts fake servers has ended")


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    made = Spawner()
    yield made
    made.close()


@pytest.fixture
def server(spawner: Spawner) -> Iterator[Callable[..., str]]:
    """Starts fake servers that belong to nobody's run; gives their addresses."""
    started: list[int] = []

    def start(role: str, *arguments: str) -> str:
        pid, url = spawner.start("0", role, *arguments)
        started.append(pid)
        return url

    yield start
    for pid in started:
        spawner.end(pid)


@pytest.fixture
def proxy() -> Iterator[Callable[[str, str], str]]:
    """Puts a fault before a server (``multiitem proxy``); gives the address in front."""
    started: list[subprocess.Popen[str]] = []

    def start(upstream: str, fault: str) -> str:
        command = [sys.executable, "-m", "pytest_multiitem.faults.proxy", "--upstream", upstream, "--fault", fault]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[2]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def tls() -> Iterator[int]:
    """The port of a server that speaks TLS, with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        stop.set()
        thread.join()
