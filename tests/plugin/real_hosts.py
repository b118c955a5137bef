"""Machines of one's own: each a network namespace with process table, home directory and a real sshd of its own.

Where namespaces are not allowed (or with MULTIITEM_TEST_HOSTS=loopback), an sshd each on a loopback address, with a
home directory of its own. Everything is stopped by its own handle.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_CLAIMS = Path(tempfile.gettempdir()) / "multiitem-test-hosts"
#: For benchmarks of networks (RFC 2544): nobody's real one.
_NETWORK = "198.18"
LOOPBACK_PORT = 20_022


def missing() -> str | None:
    """What the tests with machines lack here, and how to get it; None where nothing."""
    lacking = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync", "setsid") if _found(name) is None]
    if lacking:
        return f"{', '.join(lacking)} missing; apt-get install openssh-server openssh-client rsync util-linux"
    if os.geteuid() != 0:
        return "an sshd that lets in needs root here"
    return None


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@cache
def namespaces() -> bool:
    """Whether hosts can have networks and process tables of their own."""
    if os.environ.get("MULTIITEM_TEST_HOSTS") == "loopback" or _found("ip") is None or _found("unshare") is None:
        return False
    name = f"mi-try-{os.getpid()}"
    if _ip("netns", "add", name, check=False):
        return False
    tried = subprocess.run(
        ["ip", "netns", "exec", name, "unshare", "-m", "-p", "-f", "--mount-proc", "true"],
        capture_output=True,
        check=False,
    )
    _ip("netns", "del", name)
    return tried.returncode == 0


def _ip(*words: str, check: bool = True) -> int:
    return subprocess.run([_found("ip") or "ip", *words], capture_output=True, check=check).returncode


class Claim:
    """A number that no other test process on this machine has: of a network, or of a loopback address."""

    def __init__(self) -> None:
        _CLAIMS.mkdir(exist_ok=True)
        for number in range(1, 250):
            handle = os.open(_CLAIMS / f"{number}.lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            self.number, self._handle = number, handle
            return
        raise RuntimeError("all networks for tests are taken")

    def free(self) -> None:
        os.close(self._handle)


class RealHost:
    """``authorized``: public keys that are let in as root. ``process``: ends the host when it ends."""

    def __init__(self, directory: Path, authorized: str, *, own_network: bool | None = None) -> None:
        self.own_network = namespaces() if own_network is None else own_network
        self.claim = Claim()
        number = self.claim.number
        self.address = f"{_NETWORK}.{number}.2" if self.own_network else f"127.18.{number}.2"
        self.port = 22 if self.own_network else LOOPBACK_PORT
        self.namespace, self._veth = f"mih{number}", f"mihv{number}"
        self.directory, self.home = directory, directory / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (directory / "authorized_keys").write_text(authorized)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "host_key"], check=True)
        self.process = self._start()

    def is_up(self) -> bool:
        with suppress(OSError), socket.create_connection((self.address, self.port), timeout=2) as connection:
            return connection.recv(3) == b"SSH"
        return False

    def wait_until_up(self, within: float = 60) -> None:
        end = time.monotonic() + within
        while not self.is_up():
            assert self.process.poll() is None and time.monotonic() < end, (self.directory / "sshd.log").read_text()
            time.sleep(0.02)

    def cut(self) -> None:
        """No packet goes in or out."""
        if self.own_network:
            _ip("link", "set", self._veth, "down")
        else:
            for process in self._connections():
                process.kill()
            self.process.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        if self.own_network:
            _ip("link", "set", self._veth, "up")
        else:
            self.process.send_signal(signal.SIGCONT)

    def drop_connections(self) -> None:
        """Every connection that is open breaks; new ones are let in."""
        for process in self._connections():
            with suppress(psutil.Error):
                process.kill()

    def run(self, command: str) -> str:
        """A command there, for tests that look."""
        done = subprocess.run(["sh", "-c", f"cd {self.home} && {command}"], capture_output=True, text=True, check=False)
        return done.stdout

    def jobs(self) -> list[psutil.Process]:
        """The processes that live there, but sshd's."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.name() != "sshd" and Path(process.cwd()).is_relative_to(self.home):
                    found.append(process)
        return found

    def stop(self) -> None:
        """It is gone, with all that ran on it."""
        left = [] if self.own_network else [*self._connections(), *self.jobs()]
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        if self.own_network:
            _ip("netns", "del", self.namespace, check=False)
            _ip("link", "del", self._veth, check=False)  # it goes with the namespace, a moment later
        self.claim.free()

    def _connections(self) -> list[psutil.Process]:
        """The sshd processes that serve connections, wherever below ours they are."""
        with suppress(psutil.Error):
            below = psutil.Process(self.process.pid).children(recursive=True)
            return [each for each in below if each.name() == "sshd" and " [listener]" not in " ".join(each.cmdline())]
        return []

    def _start(self) -> subprocess.Popen[bytes]:
        lines = [
            f"Port {self.port}", f"ListenAddress {self.address}", f"HostKey {self.directory / 'host_key'}", "UsePAM no",
            "PasswordAuthentication no", "PermitRootLogin yes", "StrictModes no",
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}", "PidFile none", "MaxStartups 100",
        ]  # fmt: skip
        if not self.own_network:
            lines += [f"SetEnv HOME={self.home}", 'ForceCommand cd "$HOME" && exec sh -c "$SSH_ORIGINAL_COMMAND"']
        config = self.directory / "sshd_config"
        config.write_text("".join(f"{line}\n" for line in lines))
        command = [_found("sshd") or "sshd", "-D", "-e", "-f", str(config)]
        if self.own_network:
            self._make_network()
            users = Path("/etc/passwd").read_text().splitlines()
            root = f"root:x:0:0:root:{self.home}:/bin/sh"
            passwd = self.directory / "passwd"
            passwd.write_text("".join(f"{root if line.startswith('root:') else line}\n" for line in users))
            begin = f'mount --bind {passwd} /etc/passwd && exec "$@"'
            command = [
                "ip", "netns", "exec", self.namespace, "unshare", "-m", "-p", "-f", "--mount-proc",
                "--kill-child=SIGKILL", "sh", "-c", begin, "host", *command,
            ]  # fmt: skip
        with (self.directory / "sshd.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _make_network(self) -> None:
        end = f"{_NETWORK}.{self.claim.number}"
        _ip("netns", "del", self.namespace, check=False)  # what a killed run of the tests has left
        _ip("link", "del", self._veth, check=False)
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._veth, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _ip("addr", "add", f"{end}.1/30", "dev", self._veth)
        _ip("link", "set", self._veth, "up")
        _ip("-n", self.namespace, "addr", "add", f"{end}.2/30", "dev", "eth0")
        _ip("-n", self.namespace, "link", "set", "eth0", "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
