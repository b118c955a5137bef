"""A machine that commands run on and files go to: over OpenSSH and rsync, or this very machine. Only command lines are
made here; `commands` runs them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_multiitem.machines.commands import Finished
from pytest_multiitem.machines.problem import Kind, MachineError

#: ssh's exit status for a failure of its own, whatever the command's would have been.
SSH_FAILED = 255
#: rsync's for a connection that broke or stood still: socket, protocol, stream, time.
_RSYNC_CUT = frozenset({10, 12, 30, 35, SSH_FAILED})
#: Nobody is there to be asked; a dead link is noticed after 15 s.
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
#: A machine is not trusted: no links, no devices, no owners, and nothing huge comes back. What was cut goes on.
_RSYNC = ("rsync", "-rtp", "--no-links", "--max-size=512m", "--partial-dir=.rsync-partial", "--timeout=60")


class Host(Protocol):
    """Paths on the machine are relative to the home directory there."""

    @property
    def label(self) -> str:
        """What it is called in messages."""

    def shell(self, command: str) -> list[str]:
        """The command line that runs a POSIX shell command there, in the home directory."""

    def push(self, source: Path, target: str) -> list[str]:
        """That copies a file, or a directory's content, to there; ``target``'s parent must exist."""

    def pull(self, source: str, target: Path) -> list[str]:
        """That copies a directory's content from there."""

    def lost(self, finished: Finished) -> bool:
        """Whether a command failed because of the connection, and may be tried again."""


@dataclass(frozen=True)
class SshHost:
    """``target``: ``user@host`` or a name of the ssh configuration. ``options``: for ``ssh -o``, before the usual ones,
    so that they win. ``config``, ``key``: files. ``says_all``: whether ``config`` is one of `configuration`."""

    label: str
    target: str
    options: tuple[str, ...] = ()
    config: Path | None = None
    key: Path | None = None
    says_all: bool = False

    @property
    def _ssh(self) -> list[str]:
        words = ["ssh", *(("-F", str(self.config)) if self.config else ())]
        if self.says_all:
            return words + [word for option in self.options for word in ("-o", option)]
        if self.key is not None:
            words += ["-i", str(self.key), "-o", "IdentitiesOnly=yes"]
        return words + [word for option in (*self.options, *_OPTIONS) for word in ("-o", option)]

    def shell(self, command: str) -> list[str]:
        """See `Host`."""
        return [*self._ssh, self.target, f"sh -c {shlex.quote(command)}"]  # whatever shell the user has there

    def push(self, source: Path, target: str) -> list[str]:
        """See `Host`."""
        return [*_RSYNC, "-e", shlex.join(self._ssh), _content(source), f"{self.target}:{target}"]

    def pull(self, source: str, target: Path) -> list[str]:
        """See `Host`."""
        return [*_RSYNC, "-e", shlex.join(self._ssh), f"{self.target}:{source}/", f"{target}/"]

    def lost(self, finished: Finished) -> bool:
        """See `Host`."""
        return finished.status == SSH_FAILED or (finished.argv[0] == "rsync" and finished.status in _RSYNC_CUT)


@dataclass(frozen=True)
class LocalHost:
    """This machine; ``home`` stands for its home directory."""

    label: str
    home: Path

    def shell(self, command: str) -> list[str]:
        """See `Host`."""
        home = shlex.quote(str(self.home))
        return ["sh", "-c", f"mkdir -p {home} && cd {home} && {{ {command}\n}}"]

    def push(self, source: Path, target: str) -> list[str]:
        """See `Host`."""
        return [*_RSYNC, _content(source), str(self.home / target)]

    def pull(self, source: str, target: Path) -> list[str]:
        """See `Host`."""
        return [*_RSYNC, f"{self.home / source}/", f"{target}/"]

    def lost(self, finished: Finished) -> bool:
        """See `Host`."""
        return False


def configuration(options: Sequence[str], key: Path, known_hosts: Path) -> str:
    """An ssh configuration for machines that nobody has seen before: a machine's key is taken as it comes, and then
    kept. ``options``: of the user's own, which win."""
    own = ("IdentitiesOnly=yes", "StrictHostKeyChecking=accept-new")
    pairs = [option.split("=", 1) for option in (*options, *own, *_OPTIONS)]
    pairs += [["IdentityFile", f'"{key}"'], ["UserKnownHostsFile", f'"{known_hosts}"']]
    return "".join(["Host *\n", *(f"    {name} {value}\n" for name, value in pairs)])


def remote_error(host: Host, finished: Finished) -> MachineError:
    """What a command on a machine failed with, in its own last words."""
    words = [line for line in (*finished.out.splitlines(), *finished.err.splitlines()) if line.strip()]
    said = words[-1] if words else "it said nothing"
    if host.lost(finished):
        return MachineError(Kind.CONNECTION, host.label, said)
    return MachineError(Kind.REMOTE, host.label, f"exit status {finished.status}: {said}")


def _content(source: Path) -> str:
    return f"{source}/" if source.is_dir() else str(source)
