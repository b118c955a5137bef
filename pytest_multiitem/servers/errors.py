"""What can go wrong with an owned server. Each message: what was expected, what came, what to do next."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from pytest_multiitem.errors import MultiItemError

#: A line that names what was raised; loggers may put a time before it.
_RAISED = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$")


class ServerError(MultiItemError):
    """Base of the failures of servers that this package starts, shares and stops."""


class PortUnavailable(ServerError):
    """No TCP port could be claimed: the one asked for (strict) or any in the range above it is in use."""


class ServerDied(ServerError):
    """A server process ended although it should be running.

    ``returncode`` follows :mod:`subprocess` (negative: the number of the signal that killed it), ``reason``
    says on whose behalf it ended, ``log_tail`` holds the last lines of ``log_path``.
    """

    def __init__(self, label: str, returncode: int, reason: str, log_path: Path, log_tail: str) -> None:
        self.returncode = returncode
        self.log_path = log_path
        self.log_tail = log_tail
        super().__init__(
            f"{label}: expected a running server, but it {describe_exit(returncode)} ({reason}){_raised(log_tail)}.\n"
            f"{_quote(log_path, log_tail)}\n"
            "Next: fix what the log says; a server that died is not restarted silently, "
            "because results from before and after would not be comparable."
        )


class NeverReady(ServerError):
    """Raised by a readiness probe: the server's answer will be the same however long one waits. ``failure``: what came
    of the probe's request."""

    def __init__(self, message: str, failure: MultiItemError | None = None) -> None:
        self.failure = failure
        super().__init__(message)


class ServerNotReady(ServerError):
    """A server runs but did not answer its readiness probe within ``timeout`` seconds, or never will."""

    def __init__(
        self, label: str, timeout: float, last_error: BaseException | None, log_path: Path, log_tail: str
    ) -> None:
        self.last_error = last_error
        self.log_path = log_path
        self.log_tail = log_tail
        came = "no probe finished" if last_error is None else f"{type(last_error).__name__}: {last_error}"
        never = isinstance(last_error, NeverReady)
        within = "" if never else f" within {timeout:g} s"
        following = (
            "Next: a server that answers this will not become ready; make the request fit it, or fix it."
            if never
            else "Next: if the log shows progress, allow a longer start-up; otherwise fix what it says."
        )
        super().__init__(
            f"{label}: expected a ready server{within}; the last probe said: {came}.\n"
            f"{_quote(log_path, log_tail)}\n{following}"
        )


def describe_exit(returncode: int) -> str:
    """``exited with code 3`` or ``was killed by SIGKILL``, from a :mod:`subprocess`-style return code."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:  # real-time signals have no name
        return f"was killed by signal {-returncode}"


def _raised(log_tail: str) -> str:
    """The last thing that a log says was raised, in its own words, behind a colon; empty where it says none."""
    found = [match[1] for line in log_tail.splitlines() if (match := _RAISED.search(line.rstrip()))]
    return f": {found[-1].strip().rstrip('.')}" if found else ""


def _quote(log_path: Path, log_tail: str) -> str:
    if not log_tail:
        return f"Its log {log_path} is empty."
    body = "\n".join(f"  | {line}" for line in log_tail.splitlines())
    return f"The end of its log {log_path}:\n{body}"
