"""Port claims: exclusive between processes, inherited by children, honest about what is free."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_multiitem.servers.errors import PortUnavailable
from pytest_multiitem.servers.ports import claim_port


@pytest.fixture
def base() -> int:
    """A free port of no well-known service; the tests look upwards from it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60000)


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server


def test_two_processes_claim_different_ports(base: int) -> None:
    script = (
        "import sys; from pytest_multiitem.servers.ports import claim_port\n"
        f"claim = claim_port({base}); print(claim.port, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        with claim_port(theirs) as mine:
            assert mine.port > theirs
        with pytest.raises(PortUnavailable, match="another test run"):
            claim_port(theirs, strict=True)
        other.kill()
        other.wait()
        with claim_port(theirs, strict=True) as after_their_death:
            assert after_their_death.port == theirs


def test_claim_lives_as_long_as_an_heir(base: int) -> None:
    claim = claim_port(base)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(claim.fileno(),)
    ) as heir:
        claim.close()
        claim.close()
        with pytest.raises(PortUnavailable):
            claim_port(claim.port, strict=True)
        heir.kill()
    with claim_port(claim.port, strict=True) as again:
        assert again.port == claim.port


def test_a_listening_port_is_busy() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"port {port} .*another program uses it.*next free port"):
            claim_port(port, strict=True)
        with claim_port(port) as claim:
            assert claim.port > port


def test_a_port_in_time_wait_is_free() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first, the server's, keeps TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as strict_probe, pytest.raises(OSError, match="in use"):
        strict_probe.bind(("127.0.0.1", port))  # proves that the port is in TIME_WAIT
    with claim_port(port, strict=True) as claim:
        assert claim.port == port


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_ports_are_refused(port: int) -> None:
    with pytest.raises(PortUnavailable, match=str(port)):
        claim_port(port)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_failed_claim_leaks_no_descriptor(base: int) -> None:
    with claim_port(base) as claim:
        before = open_descriptors()
        with pytest.raises(PortUnavailable):
            claim_port(claim.port, strict=True)
        assert open_descriptors() == before
